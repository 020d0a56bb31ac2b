"""What a person writes is checked, and what is wrong with it is said in their words."""

import re

import pytest
import yaml

from flows.cli.verbs.init import commented
from raft_errors import BadInput
from tasks.config import RunConfig, describe_values, fields, load_config


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def to(text, name="my.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    return to


def test_without_a_file_the_defaults_stand(write):
    assert load_config().corpus == ("pydoc:topics",)


def test_raft_yaml_of_the_working_directory_is_found(write):
    write({"seed": 5}, "raft.yaml")
    assert load_config().seed == 5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trian": {}}, "unknown key trian (did you mean train?)"),
        ({"train": {"learning_rat": 1}}, "unknown key train.learning_rat (did you mean train.learning_rate?)"),
        ({"chunk": {"learning_rate": 1}}, "unknown key chunk.learning_rate (did you mean train.learning_rate?)"),
        ({"max_tokens": 5}, "(did you mean chunk.max_tokens?)"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(write, values, words):
    with pytest.raises(BadInput) as caught:
        load_config(write(values))
    assert words in str(caught.value)


def test_a_file_of_domains_is_called_one_and_no_list_of_unknown_keys(write):
    with pytest.raises(BadInput, match=r"my\.yaml is a file of domains") as caught:
        load_config(write({"common": {}, "domains": {"law": {}}}))
    assert "raft domains" in caught.value.do


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"serve": {"url": "nowhere"}}, "serve.url"),
        ({"serve": {"url": "http://me:secret@host/v1"}}, "serve.url"),
        ({"serve": {"mix": 1}}, "serve.mix"),
        ({"retrieval": {"store": {"kind": "qdrant", "at": "http://[::1"}}}, "retrieval.store"),
    ],
)
def test_what_a_validator_says_is_said_of_its_field(write, values, field):
    with pytest.raises(BadInput) as caught:
        load_config(write(values))
    assert field in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": -4}, "seed is -4, expected a whole number at least 0"),
        ({"train": {"rank": 0}}, "train.rank is 0, expected a whole number at least 1 and at most 1024"),
        ({"train": {"dtype": "fp8"}}, "train.dtype is 'fp8', expected one of bfloat16, float32"),
        ({"records": {"p_oracle": 1.5}}, "records.p_oracle is 1.5, expected one of measured or a number at least 0"),
        ({"chunk": {"max_tokens": "many"}}, "chunk.max_tokens is 'many', expected a whole number"),
        ({"corpus": []}, "corpus is []"),
        ({"train": 5}, "train"),
        ({"retrieval": {"mode": "fuzzy"}}, "retrieval.mode is 'fuzzy', expected one of dense, lexical, hybrid"),
        ({"retrieval": {"where": {"colour": {"is": "red"}}}}, "retrieval.where"),
        (
            {"ingest": {"redact": ["emails"]}},
            "item 1 of ingest.redact is 'emails', expected one of email, phone, iban,",
        ),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(write, values, words):
    with pytest.raises(BadInput) as caught:
        load_config(write(values))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"chunk": {"max_tokens": 64, "overlap_tokens": 33}}, "chunk.overlap_tokens (33) is above half of"),
        ({"chunk": {"max_tokens": 16, "min_tokens": 17}}, "chunk.min_tokens (17) is above chunk.max_tokens (16)"),
        ({"chunk": {"max_context_tokens": 300}}, "4 passages of chunk.max_context_tokens (300) are longer than"),
        ({"records": {"test": 0.6, "validation": 0.5}}, "leave no document for training"),
        ({"train": {"sequence_length": 512}}, "train.sequence_length (512) is below records.max_tokens (1024)"),
        ({"records": {"first_rank": 60}}, "records.first_rank (60) is above"),
        ({"train": {"distil_steps": 5}}, "train.base_precision is bfloat16, so the base is in full already"),
        (
            {"train": {"distil_steps": 5, "base_precision": "as_stored"}},
            "train.base_precision is as_stored, so there is no base in full to learn from",
        ),
        (
            {"train": {"distil_steps": 5, "base_precision": "nf4"}, "records": {"validation": 0}},
            "train.distil_steps is judged on validation records: raise records.validation",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named(write, values, words):
    with pytest.raises(BadInput) as caught:
        load_config(write(values))
    assert words in str(caught.value)


def test_all_problems_are_told_at_once(write):
    with pytest.raises(BadInput) as caught:
        load_config(write({"seed": -1, "train": {"rank": 0}, "nonsense": 1}))
    assert all(word in str(caught.value) for word in ("seed", "train.rank", "nonsense"))


@pytest.mark.parametrize("text", ["a: [", "- a list", "just text", "\x00"])
def test_a_file_that_is_no_configuration_is_bad_input(write, text):
    with pytest.raises(BadInput, match="configuration"):
        load_config(write(text))


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(BadInput, match="raft init"):
        load_config(tmp_path / "none.yaml")


def test_relative_paths_are_relative_to_the_file(write, tmp_path):
    values = {"corpus": ["docs", "pydoc:topics", "https://a/b"], "store": "s", "questions": {"file": "qa.jsonl"}}
    config = load_config(write(values, "sub/my.yaml"))
    assert config.corpus == (str(tmp_path / "sub" / "docs"), "pydoc:topics", "https://a/b")
    assert config.store == str(tmp_path / "sub" / "s")
    assert config.questions.file == str(tmp_path / "sub" / "qa.jsonl")


def test_a_model_is_a_folder_where_there_is_one_and_a_name_otherwise(write, tmp_path):
    (tmp_path / "mine").mkdir()
    config = load_config(write({"models": {"base": "mine", "embedder": "owner/model"}}))
    assert config.models.base == str(tmp_path / "mine")
    assert config.models.embedder == "owner/model"


def test_a_file_named_without_its_folder_stands_beside_the_configuration(write, tmp_path):
    for name in ("base.gguf", "answer.j2", "more/answer.j2", "off"):
        (tmp_path / "sub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sub" / name).touch()
    values = {
        "models": {"base": "base.gguf", "embedder": "owner/model"},
        "records": {"template": "more/answer.j2"},
        "questions": {"feedback": "answer.j2"},
        "retrieval": {"rerank": "off"},
    }
    config = load_config(write(values, "sub/my.yaml"))
    assert config.models.base == str(tmp_path / "sub" / "base.gguf")
    assert config.models.embedder == "owner/model"
    assert config.records.template == str(tmp_path / "sub" / "more" / "answer.j2")
    assert config.questions.feedback == str(tmp_path / "sub" / "answer.j2")
    assert config.retrieval.rerank == "off", "a word, whatever file has it for its name"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://user:secret@host/v1", "http://h/v1?key=x"])
def test_an_address_of_another_server_that_is_none_or_holds_a_secret_is_refused(write, url):
    with pytest.raises(BadInput, match=r"serve\.url") as error:
        load_config(write({"serve": {"url": url}}))
    assert "secret" not in str(error.value)


def test_settings_on_the_command_line_win(write):
    path = write({"train": {"rank": 4}})
    config = load_config(path, ["train.rank=8", "records.absent=mix", "train.max_steps=null", "corpus=[a, b]"])
    assert (config.train.rank, config.records.absent, config.train.max_steps) == (8, "mix", None)
    assert len(config.corpus) == 2


@pytest.mark.parametrize("text", ["train.rank", "=5", "train.rank=[", "seed.deeper=1"])
def test_a_setting_that_makes_no_sense_is_bad_input(write, text):
    with pytest.raises(BadInput):
        load_config(write({"seed": 1}), [text])


def test_every_field_says_what_it_means_and_what_it_takes():
    for path, info in fields(RunConfig):
        assert info.description, path
        assert describe_values(info), path


def test_the_file_that_init_writes_is_the_default_configuration(write):
    assert load_config(write(commented())) == load_config()


def test_every_line_of_that_file_may_be_made_live(write):
    """Taking the comment sign off every setting changes nothing."""
    lines = []
    for line in commented().splitlines():
        is_setting = re.match(r" *# [a-z_]+: ", line)
        lines.append(line.replace("# ", "", 1) if is_setting else line)
    assert load_config(write("\n".join(lines))) == load_config()


def test_the_comments_of_that_file_fit_a_window():
    assert max(map(len, commented().splitlines())) <= 100


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.rank=yes", "train.rank is true (so YAML reads yes, no, on and off), expected a whole number"),
        ("train.learning_rate=true", "train.learning_rate is true"),
        ("seed=off", "seed is false"),
        ("ingest.max_seconds=on", "ingest.max_seconds is true"),
        ("records.p_oracle=true", "records.p_oracle is true"),
        ("train.mesh=[1, yes, 1, 1]", "train.mesh is [1, True, 1, 1]"),
        ("train.max_steps=no", "train.max_steps is false"),
        ("train.rank=1.5", "train.rank is 1.5, expected a whole number"),
        ("ingest.ocr=2", "ingest.ocr is 2, expected true or false"),
    ],
)
def test_a_value_of_another_kind_is_not_taken_for_a_number(write, setting, words):
    with pytest.raises(BadInput) as caught:
        load_config(None, [setting])
    assert words in str(caught.value)


def test_a_number_field_is_told_from_one_that_takes_booleans_by_its_type():
    """Every number of every section, also of sections to come."""
    for path, info in fields(RunConfig):
        if describe_values(info).startswith(("a whole number", "a number")):
            with pytest.raises(BadInput):
                load_config(None, [f"{'.'.join(path)}=true"])
    template = load_config(None, ["models.chat_template={enable_thinking: false}"]).models.chat_template
    assert template == {"enable_thinking": False}


def test_a_number_may_be_written_in_quotes_or_with_an_exponent(write):
    config = load_config(None, ["train.rank='8'", "train.learning_rate=1e-3", "train.epochs=2.0"])
    assert (config.train.rank, config.train.learning_rate, config.train.epochs) == (8, 0.001, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chunk: 5", "chunk is 5, expected a section with max_tokens, overlap_tokens,"),
        ("corpus: {a: 1}", "corpus is a mapping, expected a list that is not empty"),
        ("train: {rank: {a: 1}}", "train.rank is a mapping, expected a whole number"),
        ("5: 6", "unknown key 5 (known here: corpus, name,"),
        ("retrieval: {store: {kind: qdrant}}", "retrieval.store.at is missing, expected a text"),
        (
            "name: My Name",
            "name is 'My Name', expected a text of at most 63 small letters, digits and dashes, no dash first",
        ),
        ("ingest: {languages: [1]}", "item 1 of ingest.languages is 1, expected a text"),
        ("train: [", "line 2, column 1: a bracket is not closed, or a value is missing"),
        ("train:\n\trank: 4", "line 2, column 1: a tab stands where only spaces may"),
        ("corpus: a: b", "line 1, column 10: a colon stands where none may (put the text in quotation marks)"),
        ("train: {rank: 4\nname: x", "line 2, column 5: a bracket is not closed, or a comma is missing"),
        ("train:\n  rank: 4\n epochs: 2", "line 3, column 2: this does not fit the lines above"),
        ('name: "x', "line 2, column 1: a quotation mark is not closed"),
        ("train:\n  rank: 4\n  epochs\nname: x", "line 4, column 1: a key without a colon stands above"),
    ],
)
def test_nothing_is_said_in_the_words_of_a_library(write, text, words):
    with pytest.raises(BadInput) as caught:
        load_config(write(text + "\n"))
    said = str(caught.value)
    assert words in said
    assert not [word for word in ("Input should", "Field required", "Keys should", "<unicode string>") if word in said]
    assert said.count("expected") <= 2, "one problem is told once"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nname: a\nseed: 2\n", "the key seed stands twice, in line 1 and in line 3"),
        ("chunk:\n  max_tokens: 64\n\n  'max_tokens': 80\n", "the key chunk.max_tokens stands twice, in line 2"),
        ("train: {rank: 4, rank: 8}\n", "the key train.rank stands twice, in line 1 and in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(write, text, words):
    with pytest.raises(BadInput) as caught:
        load_config(write(text))
    assert words in str(caught.value)


def test_two_sections_may_have_a_key_of_the_same_name(write):
    text = "train: &t {rank: 4}\nchunk: {max_tokens: 64}\nrecords: {max_tokens: 1500}\nseed: 3\n"
    assert load_config(write(text)).chunk.max_tokens == 64


def test_the_same_in_a_file_of_domains(write):
    from flows.domains import read_domains

    file = write("common: {seed: 1}\ndomains:\n  law: {corpus: [a]}\n  law: {corpus: [b]}\n", "domains.yaml")
    with pytest.raises(BadInput, match=r"domains\.law stands twice, in line 3 and in line 4"):
        read_domains(file, [])
