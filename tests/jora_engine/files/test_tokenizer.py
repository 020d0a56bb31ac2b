"""Token ids, text and chat prompts equal transformers' for the same folder."""

import datetime
import json
import shutil

import pytest
import sentencepiece
import transformers

from jora_engine.files.tokenizer import FALLBACK_NAME, TEMPLATE_DATE, Tokenizer, with_fixed_date
from raft_errors import BadInput

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?\n  é"},
    {"role": "assistant", "content": "Four <b>&"},
    {"role": "user", "content": "Sure?"},
]
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no ' + message['role'] + ' here') }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FANCY = (
    "{%- set ns = namespace(n=0) %}\n{% for m in messages %}\n    {%- if m.role == 'system' %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }} {{ m | tojson }} {% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}{{ eos_token }}{% if add_generation_prompt %}go{% endif %}{% if tools %}tools{% endif %}"
)


def set_template(folder, template):
    (folder / "chat_template.jinja").write_text(template)


def test_ids_and_text_equal_transformers(tokenizer_folder, texts):
    ours, theirs = Tokenizer.load(tokenizer_folder), transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (False, True):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.encode_batch(texts) == [ours.encode(t) for t in texts]
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("template", [None, FANCY])
def test_chat_prompts_equal_transformers(tokenizer_folder, template, add):
    if template:
        set_template(tokenizer_folder, template)
    ours, theirs = Tokenizer.load(tokenizer_folder), transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    for talk in (TALK, TALK[1:2]):
        want = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=add)
        assert ours.render(talk, add) == want
        want = theirs.apply_chat_template(talk, add_generation_prompt=add, return_dict=False)
        assert ours.apply_chat_template(talk, add) == want
    assert ours.fallback_template is None


def test_older_folders_keep_the_template_in_tokenizer_config(tokenizer_folder):
    template = (tokenizer_folder / "chat_template.jinja").read_text()
    (tokenizer_folder / "chat_template.jinja").unlink()
    file = tokenizer_folder / "tokenizer_config.json"
    for form in (template, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]):
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": form}))
        assert Tokenizer.load(tokenizer_folder).chat_template == template


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_a_template_sees_the_special_tokens_that_transformers_shows_it(tokenizer_folder, key):
    """Named ones; a list of further ones it does not see, under neither name."""
    file = tokenizer_folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: ["<|endoftext|>"]}))
    template = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ additional_special_tokens }}"
    (tokenizer_folder / "chat_template.jinja").write_text(template + "|{{ extra_special_tokens }}")
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    assert "<|endoftext|>" in theirs.all_special_tokens
    talk = [{"role": "user", "content": "hi"}]
    rendered = Tokenizer.load(tokenizer_folder).render(talk)
    assert rendered == theirs.apply_chat_template(talk, tokenize=False)
    assert "<|im_start|>|<|im_end|>" in rendered


def test_an_example_is_the_prompt_that_generation_sees_and_ends_where_it_stops(tokenizer_folder):
    tokenizer = Tokenizer.load(tokenizer_folder)
    prompt, completion = tokenizer.encode_example(TALK[1:2], "Four.")
    assert prompt == tokenizer.apply_chat_template(TALK[1:2], add_generation_prompt=True)
    assert completion[-1] == tokenizer.eos_ids[0] == tokenizer.backend.token_to_id("<|im_end|>")
    whole = tokenizer.render([*TALK[1:2], {"role": "assistant", "content": "Four."}])
    assert whole.startswith(tokenizer.decode([*prompt, *completion]))


def test_the_end_of_turn_comes_from_the_template_even_where_eos_is_another_token(tokenizer_folder):
    file = tokenizer_folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": "<|endoftext|>"}))
    (tokenizer_folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    assert Tokenizer.load(tokenizer_folder).eos_ids == (2, 0)


def test_without_a_template_a_named_plain_one_is_used(tokenizer_folder, caplog):
    (tokenizer_folder / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.load(tokenizer_folder)
    assert tokenizer.fallback_template == FALLBACK_NAME
    assert FALLBACK_NAME in caplog.text
    text = tokenizer.render([{"role": "user", "content": "Q"}], add_generation_prompt=True)
    assert text.endswith("### Instruction:\nQ\n\n### Response:\n")
    assert tokenizer.encode_example([{"role": "user", "content": "Q"}], "A")[1][-1] == tokenizer.eos_ids[0]


def test_a_template_may_refuse_messages_and_cannot_leave_its_sandbox(tokenizer_folder):
    set_template(tokenizer_folder, LLAMA2)
    tokenizer = Tokenizer.load(tokenizer_folder)
    with pytest.raises(BadInput, match="no system here"):
        tokenizer.render(TALK)
    set_template(tokenizer_folder, "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}")
    with pytest.raises(BadInput, match="unsafe"):
        Tokenizer.load(tokenizer_folder).render(TALK)
    with pytest.raises(BadInput, match="no messages"):
        tokenizer.render([])


LLAMA3 = (
    "{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{{- 'Today Date: ' + date_string }}{% for m in messages %}{{ m.content }}{% endfor %}"
)
DATED = [
    LLAMA3,
    "{{ strftime_now('%Y-%m-%d') }}{{ messages[0].content }}",
    "{% set now = strftime_now( format = '%A, %d %B %Y, %H:%M' ) %}{{ now ~ messages[0].content }}",
]


def on(day, monkeypatch):
    """Turns Python's clock to noon of that day, for whoever reads it from here on."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(day.year, day.month, day.day, 12, tzinfo=tz)

        @classmethod
        def today(cls):
            return cls.now()

    class Calendar(datetime.date):
        @classmethod
        def today(cls):
            return cls(day.year, day.month, day.day)

    monkeypatch.setattr(datetime, "datetime", Clock)
    monkeypatch.setattr(datetime, "date", Calendar)


@pytest.mark.parametrize("template", DATED)
def test_a_template_that_prints_the_day_gives_the_same_tokens_on_every_day(tokenizer_folder, template, monkeypatch):
    set_template(tokenizer_folder, template)
    ids = []
    for day in (datetime.date(2026, 11, 29), datetime.date(2027, 1, 3)):
        with monkeypatch.context() as patch:
            on(day, patch)
            tokenizer = Tokenizer.load(tokenizer_folder)
            ids.append(tokenizer.encode_example(TALK[1:2], "Four."))
    assert ids[0] == ids[1]
    assert "2024" in tokenizer.render(TALK[1:2])
    assert tokenizer.template_date == TEMPLATE_DATE.isoformat() == "2024-07-26"


def test_an_undated_template_names_no_date(tokenizer_folder):
    assert Tokenizer.load(tokenizer_folder).template_date is None


@pytest.mark.parametrize("template", DATED)
def test_the_template_for_other_programs_prints_the_date_that_was_trained_with(tokenizer_folder, template):
    set_template(tokenizer_folder, template)
    ours = Tokenizer.load(tokenizer_folder)
    set_template(tokenizer_folder, with_fixed_date(template))
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    for talk in (TALK, TALK[1:2]):
        want = ours.apply_chat_template(talk, add_generation_prompt=True)
        assert theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False) == want


def test_a_date_whose_format_is_computed_is_warned_of(caplog):
    template = "{% set form = '%Y' %}{{ strftime_now(form) }}"
    assert with_fixed_date(template) == template
    assert "other programs print the day they run" in caplog.text


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory, texts):
    """A Llama-2 style folder: tokenizer.model only."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*texts, *(f"Line {i} of the training text, {i * i}." for i in range(200))] * 3))
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={corpus} --model_prefix={folder}/tokenizer --vocab_size=350 --model_type=bpe --byte_fallback=true "
        "--character_coverage=0.99 --normalization_rule_name=identity --remove_extra_whitespaces=false "
        "--split_digits=true --unk_id=0 --bos_id=1 --eos_id=2 --minloglevel=2"
    )
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": LLAMA2}))
    return folder


def test_a_sentencepiece_model_gives_sentencepiece_ids(sentencepiece_folder, texts):
    ours = Tokenizer.load(sentencepiece_folder)
    model = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    for text in texts:
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == model.EncodeAsIds(text)
        assert ours.decode(ids) == model.DecodeIds(ids)
        assert ours.encode(text) == [1, *ids]
    assert ours.eos_ids == (2,)


def test_a_text_cut_inside_a_character_keeps_the_characters_before_it(sentencepiece_folder):
    """transformers then gives up every character that is written in bytes beside the half one."""
    ours = Tokenizer.load(sentencepiece_folder)
    ids = ours.encode("Gr\u00fc\u00dfe 😀€😀, na\u00efve 日本", add_special_tokens=False)
    written, before = [ours.spelling(i).written for i in ids], ""
    for count in range(len(ids) + 1):
        text = ours.decode([1, *ids[:count]], skip_special_tokens=True)
        assert text == b"".join(written[:count]).decode("utf-8", "replace").removeprefix(" ")
        assert text.startswith(before), "a stream takes nothing back"
        before = text.rstrip("\ufffd")
    euro, broken = (ours.backend.token_to_id(f"<0x{byte}>") for byte in ("E2", "FF"))
    assert ours.decode([*ids, euro, broken, *ids[:1]]).startswith(f"{before}\ufffd\ufffd")


def test_a_sentencepiece_chat_prompt_equals_transformers_llama_tokenizer(sentencepiece_folder):
    theirs = transformers.LlamaTokenizer.from_pretrained(sentencepiece_folder)
    ours = Tokenizer.load(sentencepiece_folder)
    talk = TALK[1:]
    assert ours.render(talk) == theirs.apply_chat_template(talk, tokenize=False)
    assert ours.encode("plain words, 12") == theirs.encode("plain words, 12")


CHATML_TOKENS = {
    "350": {"content": "<|im_start|>", "special": True, "normalized": False},
    "351": {"content": "<|im_end|>", "special": True, "normalized": False},
    "352": {"content": "<think>", "special": False, "normalized": False},
}


@pytest.mark.parametrize("place", ["tokenizer_config.json", "added_tokens.json"])
def test_tokens_that_are_added_beside_a_sentencepiece_model_are_tokens(sentencepiece_folder, tmp_path, place):
    """As for a Llama 2 that was taught ChatML: in pieces, the marks of a turn would be words of the prompt."""
    folder = shutil.copytree(sentencepiece_folder, tmp_path / "chatml")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"eos_token": "<|im_end|>", "chat_template": CHATML, "legacy": False}
    if place == "added_tokens.json":
        (folder / place).write_text(json.dumps({row["content"]: int(i) for i, row in CHATML_TOKENS.items()}))
        settings["additional_special_tokens"] = ["<|im_start|>"]
    else:
        settings["added_tokens_decoder"] = CHATML_TOKENS
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = Tokenizer.load(folder)
    assert ours.eos_ids[0] == 351
    ids = ours.apply_chat_template(TALK[1:2], add_generation_prompt=True)
    assert [i for i in ids if i >= 350] == [350, 351, 350]
    assert set(ours.control.special) >= {"<|im_start|>", "<|im_end|>"}
    assert ours.control.marks == ("<think>",)
    if place == "tokenizer_config.json":
        theirs = transformers.LlamaTokenizer.from_pretrained(folder)
        assert theirs.apply_chat_template(TALK[1:2], add_generation_prompt=True, return_dict=False) == ids


def test_an_added_token_with_another_number_is_refused(sentencepiece_folder, tmp_path):
    folder = shutil.copytree(sentencepiece_folder, tmp_path / "gap")
    (folder / "added_tokens.json").write_text('{"<|im_start|>": 360}')
    with pytest.raises(BadInput, match=r"im_start.* has the id 360 in its file, and 350 here"):
        Tokenizer.load(folder)


def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path, tokenizer_folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match="holds no tokenizer"):
        Tokenizer.load(empty)
    (tokenizer_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tokenizer_folder)


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer_folder):
    file = tokenizer_folder / "tokenizer_config.json"
    settings = {k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}
    file.write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="no end-of-sequence token"):
        Tokenizer.load(tokenizer_folder)
    (tokenizer_folder / "config.json").write_text('{"eos_token_id": 2}')
    assert Tokenizer.load(tokenizer_folder).eos_ids == (2,)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_the_bytes_of_the_ids_make_the_text(kind, request, texts):
    folder = request.getfixturevalue("tokenizer_folder" if kind == "byte-level" else "sentencepiece_folder")
    tokenizer = Tokenizer.load(folder)
    tokens, dropped = tokenizer.token_bytes(), " " if kind == "sentencepiece" else ""  # of a text's beginning
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        written = b"".join(tokens[i] or b"" for i in ids).decode()
        assert written.removeprefix(dropped) == tokenizer.decode(ids, skip_special_tokens=True)
    assert all(tokens[i] is None for i in tokenizer.eos_ids)
    assert [tokenizer.spelling(i).written for i in range(len(tokens))] == tokens


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_a_token_reads_as_text_and_as_the_bytes_that_it_writes(kind, request):
    tokenizer = Tokenizer.load(
        request.getfixturevalue("tokenizer_folder" if kind == "byte-level" else "sentencepiece_folder")
    )
    face = "\U0001f9ff"  # in no vocabulary, so in parts
    parts = [tokenizer.spelling(i) for i in tokenizer.encode(face, add_special_tokens=False)]
    assert b"".join(part.written or b"" for part in parts).strip() == face.encode()
    assert any(part.text == "\ufffd" != part.written.decode("latin-1") for part in parts)
    end = tokenizer.spelling(tokenizer.eos_ids[0])
    assert (end.written, end.text) == (None, tokenizer.backend.id_to_token(tokenizer.eos_ids[0]))
    assert tokenizer.spelling(10**6) == ("", None)
