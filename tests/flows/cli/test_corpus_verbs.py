"""From the user's files to the retriever, as a user runs it: reading, searching, and what each setting changes."""

import json
import re
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def docs(project, tmp_path, domain) -> Path:
    """The project's own copy of the documents."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for path in (domain / "docs").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    project.values["corpus"] = [str(folder)]
    project.write()
    return folder


def stages(reply: dict) -> dict[str, dict]:
    return {row["stage"]: row for row in reply["stages"]}


def report_of(reply: dict) -> dict:
    return json.loads((Path(stages(reply)["ingest"]["folder"]) / "report.json").read_text())


def test_a_search_keeps_to_its_filter_in_every_mode(project, docs):
    project.raft("index", "--no-prefect")
    for mode in ("dense", "lexical", "hybrid"):
        words = ["search", "the town of Elm", "-k", "50", "--set", f"retrieval.mode={mode}"]
        hits = project.json(*words, "--where", "source=e*", "--where", "source=fir.md")["hits"]
        assert {hit["source"] for hit in hits} <= {"elm.md", "fir.md"}
        assert hits
        assert hits[0]["rank"] == 1
    assert project.json(*words, "--where", "source=nowhere.md")["hits"] == []
    refused = project.raft(*words, "--where", "colour=red", check=False)
    assert refused.returncode == 2
    assert "unknown field 'colour'" in refused.stderr


def test_a_search_is_filtered_by_a_column_of_a_table(project, docs):
    towns = [("Ash", "north", 1901), ("Oak", "south", 1902), ("Yew", "north", 1903)]
    rows = [{"id": n, "text": f"The town of {n} has a mill of its own.", "region": r, "built": b} for n, r, b in towns]
    (docs / "towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.raft("index", "--no-prefect")

    def found(*words):
        hits = project.json("search", "the town with a mill", "-k", "50", *words)["hits"]
        return {hit["source"].removeprefix("towns.jsonl#") for hit in hits}

    assert found("--where", "region=n*") == {"Ash", "Yew"}
    assert found("--where", "region=north", "--where", "built=1903") == {"Yew"}
    assert found("--set", "retrieval.where={built: [1901, 1902]}") == {"Ash", "Oak"}
    refused = project.raft("search", "the town", "--set", "retrieval.where={colour: red}", check=False)
    assert refused.returncode == 2
    assert "built, region" in refused.stderr


def test_what_could_not_be_read_is_named_with_its_reason_and_where_the_list_is(project, docs):
    for number in range(12):
        (docs / f"broken {number:02}.pdf").write_bytes(b"%PDF-1.4 broken")
    lines = project.raft("ingest", "--no-prefect").stdout.splitlines()
    at = lines.index("12 sources could not be used:")
    assert (
        len([line for line in lines[at:] if re.fullmatch(r"  broken \d\d\.pdf: it is damaged .* \(unreadable\)", line)])
        == 10
    )
    (rest,) = [line for line in lines if line.startswith("  and 2 more; all of them: ")]
    listed = (project.folder / rest.partition(": ")[2]).read_text()
    assert listed.count("broken") >= 12
    told = project.json("ingest", "--no-prefect")["quarantined"]
    assert (told["number"], len(told["first"]), told["first"][0]["reason"]) == (12, 10, "unreadable")
    assert "quarantined" not in project.json("index", "--no-prefect"), "it was told when they were read"


def test_every_name_that_is_shown_can_be_given_back(project, docs):
    (docs / "towns.csv").write_text("title,text\nAsh,The town of Ash has a mill.\nOak,The town of Oak has a forge.\n")
    (docs / "z copy of elm.md").write_bytes((docs / "elm.md").read_bytes())
    (docs / "scan.pdf").write_bytes(b"%PDF-1.4 broken")
    project.values["questions"]["file"] = str(docs.parent / "questions.jsonl")
    row = {"question": "What is the town of Elm known for?", "answer": "a wool hall", "document": "z copy of elm.md"}
    (docs.parent / "questions.jsonl").write_text(json.dumps(row) + "\n")
    project.write()
    shown = project.json("ingest", "--dry-run")["files"]["new"]["files"]
    assert "towns.csv" in shown
    assert stages(project.json("questions", "--no-prefect"))["questions"]["metrics"]["kept"] == 1
    for name in sorted({*shown} - {"scan.pdf", "z copy of elm.md"}):
        sources = project.json("forget", name)["sources"]
        hits = project.json("search", "the town", "-k", "50", "--where", f"source={name}")["hits"]
        assert {hit["source"] for hit in hits} == {*sources}
    refused = project.raft("forget", "towns.csv", "--yes", check=False)
    assert (refused.returncode, "The corpus still has towns.csv" in refused.stderr) == (2, True)
    assert project.json("forget", "z copy of elm.md")["sources"] == ["elm.md"]
    assert "unreadable" in project.raft("forget", "scan.pdf", check=False).stderr


def test_the_modes_are_compared_on_the_questions_of_the_run(project, docs, tmp_path):
    refused = project.raft("evaluate", "retrieval", check=False)
    assert refused.returncode == 2
    assert "raft questions" in refused.stderr
    project.raft("questions", "--no-prefect")
    reply = project.json("evaluate", "retrieval")
    assert reply["questions"] == 24
    assert set(reply["modes"]) == {"dense", "lexical", "hybrid"}
    assert reply["modes"]["lexical"]["recall@5"] > reply["modes"]["dense"]["recall@5"]  # random weights
    assert reply["configured"] == "hybrid"
    assert reply["differences"]["dense"]["high"] < 0
    page = Path(reply["report"]).read_text()
    assert all(word in page for word in ("dense is worse than hybrid", "Every question is answered"))
    assert not set(re.findall(r'(?:src|href)="([^"]*)"', page))
    by_document = project.json("evaluate", "retrieval", "--gold", "document", "--html", "documents.html")
    assert (reply["gold"], by_document["gold"]) == ("chunk", "document")
    assert by_document["modes"]["dense"]["any_hit@1"] > reply["modes"]["dense"]["any_hit@1"], "another part will do"
    assert "any passage of the right document counts" in by_document["about"]
    before = page
    project.raft("questions", "--no-prefect", "--set", "retrieval.mode=lexical")
    output = project.raft("evaluate", "retrieval", "--set", "retrieval.mode=lexical", "--html", "other.html").stdout
    assert "dense is worse than lexical, which is configured" in output
    project.raft("evaluate", "retrieval")
    assert Path(reply["report"]).read_text() == before


def test_a_judged_set_is_compared_without_building_anything(project, docs, tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": p.stem, "title": p.stem.title(), "text": p.read_text()} for p in sorted(docs.iterdir())]
    rows.append({"_id": "void", "title": "", "text": ""})  # public sets hold such
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "Who opens the gates of Hazel?"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\thazel\t2\nq1\telm\t0\n")
    reply = project.json("evaluate", "retrieval", "--data", str(folder))
    assert reply["questions"] == 1
    assert reply["modes"]["lexical"]["recall@1"] == 1.0
    assert reply["cut_passages"] == 8
    assert "saw only the first 24 tokens of 8 of 8 passages" in reply["caution"]
    assert "saw only the first 24 tokens of 8 of 8 passages" in Path(reply["report"]).read_text()
    chunks = ("--chunk", "--set", "chunk.max_tokens=16", "--set", "chunk.min_tokens=4")
    cut = project.json("evaluate", "retrieval", "--data", str(folder), *chunks)
    assert int(re.search(r"in (\d+) chunks of at most 16 tokens", cut["about"])[1]) > 8
    assert cut["gold"] == "document"
    assert cut["modes"]["lexical"]["recall@1"] == 1.0
    refused = project.raft("evaluate", "retrieval", "--chunk", check=False)
    assert refused.returncode == 2
    assert not (tmp_path / ".raft" / "store").exists() or not list((tmp_path / ".raft" / "store").iterdir())


def test_the_retriever_of_the_configuration_is_that_of_the_training_data(project, docs):
    first = project.json("records", "--no-prefect", "--set", "retrieval.mode=dense")
    planned = stages(project.json("plan"))
    assert [planned[name]["state"] for name in ("ingest", "chunk", "embed", "index")] == ["cached"] * 4
    assert planned["questions"]["why"] == "retrieval.mode: dense → hybrid"
    second = project.json("records", "--no-prefect")
    assert second["ran"] == ["questions", "records"]
    assert stages(first)["records"]["key"] != stages(second)["records"]["key"]


def test_what_to_read_and_what_to_take_out_is_configured_and_reported(project, docs):
    with zipfile.ZipFile(docs / "more.zip", "w") as archive:
        archive.writestr("inner.md", "# Inner\n\nWrite to someone@example.org, or call 0800-SECRET-7 at night.")
    (docs / "twin.md").write_text((docs / "elm.md").read_text() + "A closing line.\n")
    report = report_of(project.json("ingest", "--no-prefect"))
    assert report["quarantined_by_reason"] == {"archive": 1}
    assert report["counts"]["loaded"] == 9
    ingest = {"archives": True, "redact": ["email"], "redact_patterns": ["0800-[A-Z]+-7"], "near_duplicates": "drop"}
    project.values["ingest"] = ingest
    project.write()
    reply = project.json("ingest", "--no-prefect")
    report = report_of(reply)
    assert report["quarantined_by_reason"] == {}
    assert report["redacted"] == {"email": 1, "redacted": 1}
    assert [(twin["source"], twin["same_as"]) for twin in report["duplicates"]] == [("twin.md", "elm.md")]
    counts = report["counts"]
    assert counts["found"] == counts["loaded"] + counts["quarantined"] + counts["duplicates"] == 10
    documents = (Path(stages(reply)["ingest"]["folder"]) / "documents.jsonl").read_text()
    assert "example.org" not in documents
    assert "SECRET" not in documents


def test_chunks_keep_to_the_budget_of_the_model_that_reads_them(project, docs, domain):
    from tokenizers import Tokenizer

    project.values["chunk"] |= {"max_context_tokens": 48, "min_tokens": 0}
    project.values["records"]["max_tokens"] = 1024
    project.write()
    reply = project.json("chunk", "--no-prefect")
    base = Tokenizer.from_file(str(domain / "base" / "tokenizer.json"))
    rows = (Path(stages(reply)["chunk"]["folder"]) / "chunks.jsonl").read_text().splitlines()
    longest = max(len(base.encode(json.loads(row)["text"], add_special_tokens=False).ids) for row in rows)
    assert 24 < longest <= 48
