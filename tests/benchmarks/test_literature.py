"""The clean protocol of `raft_literature.py`: parts that no run can mix, rows that are written once, their table."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))
import tiny
from literature import searching
from literature.arms import ARMS, closed_records, refusal_questions, shown_to
from literature.composing import compose
from literature.corpora import read_corpus, read_questions
from literature.figures import figures_of, refusal_figures
from literature.parts import DEVELOPMENT_UNITS, TEST_UNITS, documents_of, parts_of, unit_of
from literature.protocols import PROTOCOLS, draw, varied
from literature.quoting import weight_figures, weight_table
from literature.rows import Place, commit_of, refuse_second, table
from literature.searching import Models, adapted

from data.nouns import Chunk, Document, Question, Record, digest, read_jsonl, text_sha256
from data.prompting.contract import load_template, render
from data.records.candidates import ShownPassage
from data.records.split_sides import FrozenSplits, unit_draw
from retrieval.search import Retriever
from tasks.store.itemcache import SqliteCache
from tasks.work.bench import Outcome

ARTICLES = [f"Article_{n:02}" for n in range(40)]


def questions(articles=ARTICLES, each=3):
    return [
        {"id": f"{a}-{n}", "question": f"What is {n} of {a}?", "answers": [f"x{n}"], "gold_doc_ids": [f"{a}#{n}"]}
        for a in articles
        for n in range(each)
    ]


def test_an_article_is_in_one_part_and_no_seed_moves_it():
    rows = questions()
    parts = parts_of("squad", rows)
    by_article = {unit_of(row["gold_doc_ids"][0]): parts[row["id"]] for row in rows}
    assert all(by_article[unit_of(row["gold_doc_ids"][0])] == parts[row["id"]] for row in rows)
    counts = [sum(part == name for part in by_article.values()) for name in ("development", "test", "train")]
    assert counts == [DEVELOPMENT_UNITS["squad"], TEST_UNITS["squad"], 40 - 28]
    drawn = [
        draw(dataclasses.replace(PROTOCOLS["squad"], seed=seed, test=None), rows, parts, "test") for seed in (0, 1)
    ]
    assert {row["id"] for row in drawn[0]["test"]} == {row["id"] for row in drawn[1]["test"]}
    assert [row["id"] for row in drawn[0]["test"]] != [row["id"] for row in drawn[1]["test"]]


def test_what_was_reported_before_is_development():
    before = sorted(set(ARTICLES), key=lambda article: digest("article", "0", article))[:14]
    parts = parts_of("squad", questions())
    assert {unit_of(key.rpartition("-")[0]) for key, part in parts.items() if part == "development"} == set(before)
    rows = [{"id": str(n), "split": "test" if n % 2 else "train", "gold_doc_ids": [str(n)]} for n in range(800)]
    official = parts_of("pubmedqa", rows)
    assert all((official[row["id"]] == "development") == (row["split"] == "test") for row in rows)
    assert sum(part == "test" for part in official.values()) == TEST_UNITS["pubmedqa"]


def test_a_document_that_both_sides_name_is_not_for_training():
    rows = [
        {"id": "a", "split": "train", "gold_doc_ids": ["both", "own"]},
        {"id": "b", "split": "test", "gold_doc_ids": ["both"]},
    ]
    units = documents_of(rows, {"a": "train", "b": "development"})
    assert units == {"both": "development", "own": "train"}


@pytest.mark.parametrize("name", ["squad", "covidqa", "pubmedqa", "hotpotqa"])  # more in test_literature_sets.py
def test_parts_of_the_shared_sets_do_not_touch(name, shared_data):
    rows = read_questions(name, shared_data / PROTOCOLS[name].folder)
    parts = parts_of(name, rows)
    assert set(parts.values()) == {"development", "test", "train"}
    if name in DEVELOPMENT_UNITS:
        sides = {}
        for row in rows:
            sides.setdefault(unit_of(row["gold_doc_ids"][0]), set()).add(parts[row["id"]])
        assert all(len(side) == 1 for side in sides.values())
    if name == "covidqa":  # `retriever_adaptation.py` has read the papers below .5
        assert all(unit_draw(0, row["gold_doc_ids"][0]) >= 0.5 for row in rows if parts[row["id"]] == "test")


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """part -> records of a set of 40 articles of two paragraphs, composed for a run that asks that part."""
    base = tiny.make_base(tmp_path_factory.mktemp("base") / "base")
    rows = questions(each=2)
    chunks, documents = [], []
    for row in rows:
        source = row["gold_doc_ids"][0]
        article, _, number = source.partition("#")
        text = f"The paragraph about {article} says that number {number} of it is {row['answers'][0]} and no other."
        documents.append(Document(digest(source), source, article, text, "text/plain", text_sha256(text)))
        key = digest(source, "0", text)
        chunks.append(Chunk(key, digest(source), 0, text, 0, len(text), 0, text_sha256(text), source, article))
    protocol = dataclasses.replace(PROTOCOLS["squad"], mode="lexical", max_tokens=4096, p_oracle=0.5)
    parts, retriever = parts_of("squad", rows), Retriever(None, None, chunks, mode="lexical")
    models = dataclasses.make_dataclass("Files", ["folder"])(base)
    corpus = (documents_of(rows, parts), chunks, documents, retriever, models)
    by_part = {part: compose(protocol, draw(protocol, rows, parts, part), *corpus) for part in ("development", "test")}
    known = dataclasses.replace(protocol, known_documents=True, absent="answer")
    by_part["known"] = compose(known, draw(known, rows, parts, "development"), *corpus)
    return (
        by_part,
        {row["question"]: parts[row["id"]] for row in rows},
        {c.document_id: unit_of(c.source) for c in chunks},
        rows,
    )


@pytest.mark.slow
def test_what_trains_is_the_same_whichever_part_is_asked(composed):
    records, part_of, _, _ = composed
    assert [r.to_dict() for r in records["development"].train] == [r.to_dict() for r in records["test"].train]
    assert {part_of[r.metadata["question"]] for r in records["test"].train} == {"train"}
    assert {part_of[r.metadata["question"]] for r in records["test"].test} == {"test"}
    assert {part_of[r.metadata["question"]] for r in records["development"].test} == {"development"}


@pytest.mark.slow
def test_no_passage_of_a_part_that_is_asked_stands_in_a_training_record(composed):
    records, _, article_of, rows = composed
    parts = parts_of("squad", rows)
    part_of_article = {unit_of(row["gold_doc_ids"][0]): parts[row["id"]] for row in rows}
    shown = {
        part_of_article[article_of[p["document_id"]]] for r in records["test"].train for p in r.metadata["passages"]
    }
    assert shown == {"train"}


@pytest.mark.slow
def test_of_known_documents_questions_are_held_out_and_passages_are_shown(composed):
    records, part_of, article_of, rows = composed
    known = records["known"]
    assert {part_of[r.metadata["question"]] for r in known.train} == {"train"}
    assert {part_of[r.metadata["question"]] for r in known.test} == {"development"}
    assert all(r.metadata["oracle_present"] for r in known.test)
    assert known.report["may_refuse"] is False
    absent = [r for r in known.train if not r.metadata["oracle_present"]]
    assert len(absent) == round(len(known.train) / 2)
    assert all(r.metadata["answers"][0] in r.output for r in absent), "the bare answer, as in the paper"
    parts = parts_of("squad", rows)
    part_of_article = {unit_of(row["gold_doc_ids"][0]): parts[row["id"]] for row in rows}
    shown = {part_of_article[article_of[p["document_id"]]] for r in known.train for p in r.metadata["passages"]}
    assert shown == {"train", "development", "test"}


@pytest.mark.slow
def test_domain_fine_tuning_sees_no_passage_and_learns_the_answer_alone(composed):
    train = composed[0]["test"].train
    closed = closed_records(train, lambda text: len(text.split()))
    assert len(closed) == len({record.metadata["question_id"] for record in train})
    for record in closed:
        assert record.input == ""
        assert record.output == f"<ANSWER>: {record.metadata['answers'][0]}"
        assert record.metadata["question"] in record.instruction


def chunk(name):
    return Chunk(name, f"d-{name}", 0, f"text of {name}", 0, 4, 0, "", f"{name}.md", name)


def retrieved(name, rank=1):
    return ShownPassage(chunk(name), "distractor", "retrieved", rank, 0.5)


def record(number, oracle):
    meta = {
        **{"record_id": f"r{number}", "question_id": f"q{number}", "question": f"Question {number}?", "documents": ""},
        **{"answers": ["yes"], "oracle_ids": [oracle], "document_type": "", "kind": "", "difficulty": 1},
        **{"document_ids": [f"d-{oracle}"], "output_tokens": 3},
    }
    return Record("", "", "", meta)


def test_arms_differ_in_who_answers_and_what_is_shown():
    template, one = load_template("numbered"), record(1, "a")
    shown = {key: shown_to(arm, one, [retrieved("a"), retrieved("b", 2)], True, template) for key, arm in ARMS.items()}
    assert [len(shown[key].metadata["passages"]) for key in ARMS] == [0, 2, 0, 2, 2]
    assert shown["rag"].instruction == shown["raft"].instruction
    assert [(row["rank"], row["role"]) for row in shown["raft"].metadata["passages"]] == [
        (1, "oracle"),
        (2, "distractor"),
    ]
    direct = render("Question 1?", [], template=load_template("direct"), may_refuse=False)
    assert (shown["dsf"].instruction, shown["dsf"].input) == direct


def test_refusal_is_measured_where_the_oracle_was_there_to_be_taken():
    records = [record(n, "a" if n % 3 else "z") for n in range(9)]  # z is never retrieved
    hits = [[retrieved("a"), retrieved("b", 2)]] * 9
    places = refusal_questions(records, hits, 150, seed=0)
    assert len(places) == len(set(places)) == 6
    assert all(n % 3 for n in places)
    assert len(refusal_questions(records, hits, 2, seed=0)) == 4
    assert refusal_questions([], [], 150, seed=0) == []


def answered(number, f1, refused=False):
    return {"metrics": {"f1": f1}, "group": f"g{number}", "refused": refused}


def test_figures_of_an_arm_are_paired_with_base_and_rag():
    rows = [answered(n, 0.5) for n in range(12)]
    reference = [answered(n, 0.25) for n in range(12)]
    figures = figures_of(rows, reference, seed=0)
    assert figures["f1"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 12}
    assert figures["f1_over_rag"]["value"] == 0.25
    assert "accuracy" not in figures
    taken = [answered(n, None, refused=n < 6) for n in range(12)]
    left = [answered(n, 1.0, refused=n < 2) for n in range(12)]
    refusals = refusal_figures(taken, left, seed=0)
    assert refusals["refusal_recall"]["value"] == 0.5
    assert refusals["refusal_precision"]["value"] == 0.75
    assert "refusal_precision" not in refusal_figures([answered(1, None)], [], seed=0)  # nothing was refused


def row_of(arm="raft", part="test", protocol=PROTOCOLS["squad"], value=0.4, **changes):
    return {
        **{
            "set": "squad",
            "part": part,
            "arm": arm,
            "seed": protocol.seed,
            "digest": protocol.digest_for("squad", arm),
        },
        **{"protocol": dataclasses.asdict(protocol), "questions": 300, "commit": "c0ffee" * 6, "date": "2026-11-29"},
        "figures": {"f1": {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 300}},
        **changes,
    }


def test_the_test_part_is_asked_once_for_a_protocol_and_seed(tmp_path):
    place, protocol = Place(tmp_path), PROTOCOLS["squad"]
    refuse_second(place, "squad", ["raft", "rag"], protocol)  # nothing there yet
    place.write(row_of(), "squad", "raft", protocol)
    with pytest.raises(SystemExit, match=r"raft was evaluated .* at commit c0ffee.*not asked yet: --arm rag"):
        refuse_second(place, "squad", ["raft", "rag"], protocol)
    with pytest.raises(FileExistsError):
        place.write(row_of(value=0.9), "squad", "raft", protocol)
    for other in (dataclasses.replace(protocol, seed=1), dataclasses.replace(protocol, epochs=2)):
        refuse_second(place, "squad", ["raft", "rag"], other)
    same = varied(protocol, ["refusal=20"])  # how much is measured is no other protocol
    with pytest.raises(SystemExit):
        refuse_second(place, "squad", ["raft"], same)
    place.write(row_of(part="development"), "squad", "raft", protocol)
    place.write(row_of(part="development", value=0.5), "squad", "raft", protocol)
    assert [row["figures"]["f1"]["value"] for row in place.read("development")] == [0.5]


def test_the_table_shows_spread_variants_and_what_is_missing(tmp_path):
    place, protocol = Place(tmp_path), PROTOCOLS["squad"]
    for seed, value in ((0, 0.4), (1, 0.5)):
        seeded = dataclasses.replace(protocol, seed=seed)
        place.write(row_of(protocol=seeded, value=value), "squad", "raft", seeded)
    more = dataclasses.replace(protocol, epochs=2)
    place.write(row_of(protocol=more, value=0.6), "squad", "raft", more)
    text = table(list(place.read("test")), ["squad"], "test")
    assert "| RAFT | 0, 1 | 300 / 300 | 0.450 ± 0.071 (0.400 to 0.500) |" in text
    assert "| RAFT (epochs=2) | 0 | 300 | 0.600 [0.500, 0.700] |" in text
    assert "asked with 2 protocols" in text
    assert "squad: RAFT, seed 2" in text
    assert "squad: base + RAG, seed 0, 1, 2" in text
    assert "squad: RAFT, better retriever, seed 0, 1, 2" in text
    assert "closed book, better" not in text, "which reads no passage"
    assert "Missing: squad: base, closed book" in table([], ["squad"], "development")


def test_rows_that_differ_in_one_field_are_a_sweep(tmp_path):
    place, protocol = Place(tmp_path), dataclasses.replace(PROTOCOLS["squad"], train=600)
    for p_oracle, seed, value in ((0.2, 0, 0.1), (0.2, 1, 0.3), (1, 0, 0.4), (None, 0, 0.5)):
        point = dataclasses.replace(protocol, p_oracle=p_oracle, seed=seed)
        place.write(row_of(part="development", protocol=point, value=value), "squad", "raft", point)
    text = table(list(place.read("development")), ["squad"], "development")
    sweep = text[text.index("| p_oracle |") :].splitlines()
    assert sweep[2] == "| 0.2 | 0, 1 | 0.200 ± 0.141 (0.100 to 0.300) |"
    assert sweep[3] == "| 1 | 0 | 0.400 [0.300, 0.500] |"
    assert sweep[4] == "| as often as retrieved | 0 | 0.500 [0.400, 0.600] |"
    assert "| distractors |" not in text, "one value is no sweep"
    assert "squad: p_oracle 0, 0.4, 0.6, 0.8 with train=600" in text
    assert "squad: distractors 0, 1, 2, 3 with train=600" in text


def test_rows_name_their_commit_and_whether_the_code_was_changed_since(tmp_path):
    assert commit_of(tmp_path) == ("", True)

    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "row.json").write_text("{}")  # untracked: a row of the run before
    commit, changed = commit_of(tmp_path)
    assert len(commit) == 40
    assert not changed
    (tmp_path / "code.py").write_text("a = 2\n")
    assert commit_of(tmp_path) == (commit, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--part", "test"], "choices are made on --part development"),
        (["--final"], "choices are made on --part development"),
        (["--part", "test", "--final", "--quick"], "neither --quick nor --rival"),
        (["--part", "test", "--final", "--quote-weights"], "nor --quote-weights"),
        (["--vary", "base=other"], "given with --base"),
    ],
)
def test_the_test_part_cannot_be_asked_in_passing(options, words, tmp_path, monkeypatch, capsys):
    import raft_literature

    monkeypatch.setattr(sys, "argv", ["raft_literature.py", "--data", str(tmp_path), *options])
    with pytest.raises(SystemExit):
        raft_literature.main()
    assert words in capsys.readouterr().err


def test_weights_are_compared_by_the_same_questions():
    def rows(precisions):
        metrics = [{"f1": 0.5, "citation_precision": precision} for precision in precisions]
        return [{"metrics": own, "group": f"g{n}"} for n, own in enumerate(metrics)]

    figures = weight_figures({0.0: rows([0.0, 1.0, None, 0.0]), 0.5: rows([1.0, 1.0, 1.0, None])}, seed=0)
    assert figures["0"]["citation_precision"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["0.5"]["citation_precision"]["value"] == 1.0
    change = figures["0.5"]["precision_change"]
    assert (change["value"], change["n"]) == (0.5, 2), "where both quote"
    assert figures["0"]["precision_change"]["value"] == figures["0.5"]["f1_change"]["value"] == 0.0
    lines = weight_table(figures).splitlines()
    assert lines[3].startswith("| 0.5 | 1.000 [1.000, 1.000] | +0.500 [")
    nothing = weight_figures({0.0: rows([None]), 1.0: rows([None])}, seed=0)
    assert weight_table(nothing).splitlines()[3].startswith("| 1 | – | – | 0.500 ")


def test_rows_that_are_older_than_a_field_are_of_the_protocol_without_it():
    first = {"squad": "129321269c6e4b98"}  # as it was before the fields of `LATER`
    assert {name: PROTOCOLS[name].digest_for(name, "raft") for name in first} == first
    for change in ("quote_weight=0.5", "distractors=1", "rerank=true", "adapt=embedder", "known_documents=true"):
        assert varied(PROTOCOLS["squad"], [change]).digest_for("squad", "raft") != first["squad"]


@pytest.mark.parametrize("words", ["0,x", "-1", "1,101"])
def test_weights_are_numbers(words, tmp_path, monkeypatch, capsys):
    import raft_literature

    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path), "--quote-weights", words])
    with pytest.raises(SystemExit):
        raft_literature.main()
    assert "--quote-weights" in capsys.readouterr().err


def test_show_runs_nothing_and_needs_no_data(tmp_path, monkeypatch, capsys):
    import raft_literature

    Place(tmp_path).write(row_of(part="development"), "squad", "raft", PROTOCOLS["squad"])
    monkeypatch.setattr(sys, "argv", ["x", "--show", "--set", "squad", "--rows", str(tmp_path), "--data", "/nowhere"])
    assert raft_literature.main() == 0
    out = capsys.readouterr().out
    assert "## development" in out
    assert "| RAFT | 0 | 300 | 0.400 [0.300, 0.500] |" in out


def test_long_documents_are_cut_to_chunks_of_the_embedders_tokens(tmp_path):
    base = tiny.make_base(tmp_path / "base")
    text = " ".join(f"Sentence {n} of the paper says something." for n in range(60))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"id": "p", "title": "Paper", "text": text}) + "\n")
    whole, [document] = read_corpus(tmp_path / "corpus.jsonl")
    cut, _ = read_corpus(tmp_path / "corpus.jsonl", 128, base / "tokenizer.json")
    assert [c.text for c in whole] == [text]
    assert len(cut) > 5
    assert all(text[c.start : c.end] == c.text and c.document_id == document.id for c in cut)


def test_the_retriever_is_fitted_to_the_training_part_alone(tmp_path, monkeypatch):
    rows = questions(each=2)
    parts = parts_of("squad", rows)
    documents = []
    for row in rows:
        source, answer = row["gold_doc_ids"][0], row["answers"][0]
        text = f"The paragraph {source} says that it is {answer} and no other."
        documents.append(Document(digest(source), source, "", text, "text/plain", text_sha256(text)))
    chunks = [Chunk(digest(d.id), d.id, 0, d.text, 0, len(d.text), 0, "", d.source, "") for d in documents]
    protocol = dataclasses.replace(PROTOCOLS["squad"], adapt="embedder", mode="lexical")
    builds = []

    def build(bench, config, asked, chunk, index, *, embedder, retrieval, splits, reranker):
        builds.append((config, list(read_jsonl(asked.path("questions.jsonl"), Question)), splits.frozen_splits))
        (bench.out / "retriever.json").write_text("{}")
        return Outcome("", {"steps": ["fitted embedder dropped"], "questions": {"train": 3}})

    monkeypatch.setattr(searching.adapt, "build", build)
    models = Models(SimpleNamespace(digest="e", name="e"))
    arguments = (protocol, rows, parts, documents_of(rows, parts), documents, tmp_path)
    retriever = Retriever(None, None, chunks, mode="lexical")
    for _ in range(2):
        found, report = adapted(
            retriever, *arguments, SqliteCache(tmp_path / "items.sqlite"), models, say=lambda text: None
        )
    assert found is retriever
    assert report["steps"] == ["fitted embedder dropped"]
    [(config, asked, splits)] = builds  # the second time it lies there
    assert (config.embedder, config.reranker) == (True, False)
    wordings = {part: {row["question"] for row in rows if parts[row["id"]] == part} for part in set(parts.values())}
    learnt = {q.question for q in asked if q.gold_chunk_ids}
    assert learnt == wordings["train"]
    assert {q.question for q in asked} - learnt == wordings["development"] | wordings["test"], (
        "what may not be repeated"
    )
    side = FrozenSplits.read(Path(splits)).documents
    part_of_article = {unit_of(row["gold_doc_ids"][0]): parts[row["id"]] for row in rows}
    sides = {}
    for document in documents:
        sides.setdefault(unit_of(document.source), set()).add(side[document.id])
    assert all(len(some) == 1 for some in sides.values()), "articles stay whole"
    assert {a for a, some in sides.items() if some == {"test"}} == {
        a for a, p in part_of_article.items() if p != "train"
    }
    assert sum(some == {"validation"} for some in sides.values()) == 2, "every sixth of the twelve that train"
