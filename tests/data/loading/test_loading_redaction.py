"""After a load with `redact` nothing that was to be taken out is anywhere in what the load gives."""

import csv
import json
import zipfile
from pathlib import Path

import pytest

from data.loading import LoadOptions, corpus_report, load_corpus

MAIL = "jane.doe@planted.example"
KEY = "sk-plantedplantedplanted0123"
OPTIONS = LoadOptions(redact=("email", "secret"), redact_patterns=("CODENAME",), archives=True)


def everything(corpus) -> str:
    rows = [d.to_dict() for d in corpus.documents] + [q.to_dict() for q in corpus.quarantined]
    return json.dumps([rows, corpus_report(corpus), dict(corpus.digests)], ensure_ascii=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"id": MAIL, "text": "One row.", "owner": MAIL, "title": f"By {MAIL}", KEY: "as a column's name"},
        {"id": "john@planted.example", "text": "Another row.", "owner": KEY, "title": "Plain"},
        {"id": f"{MAIL}x", "text": None},
        {"id": "4", "text": "", "owner": MAIL},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n{broken " + MAIL)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[MAIL, "text"], ["x", "A cell."], [MAIL, "A second cell."]])
    with (tmp_path / f"{MAIL}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "value"], [f"CODENAME {KEY}", "1"]])
    (tmp_path / f"from {MAIL}").mkdir()
    (tmp_path / f"from {MAIL}" / "letter.md").write_text(f"# To {MAIL}\n\nSome words for {KEY}.\n")
    (tmp_path / "message.eml").write_text(
        f"From: {MAIL}\nSubject: {KEY}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n"
        f"--B\nContent-Type: text/plain\n\nWords.\n--B\nContent-Type: text/plain\n"
        f'Content-Disposition: attachment; filename="{MAIL}.txt"\n\nAttached.\n--B--\n'
    )
    with zipfile.ZipFile(tmp_path / "saved.zip", "w") as archive:
        archive.writestr(f"{MAIL}/CODENAME.txt", "Zipped words.")
        archive.writestr(f"{MAIL}.bin", bytes(range(256)))
    (tmp_path / f"damaged {KEY}.xml").write_text(f"<a><b>{MAIL}</a>")
    (tmp_path / f"{MAIL}").write_text("A file without a suffix.")
    return tmp_path


def test_nothing_that_was_planted_is_left_in_documents_quarantine_and_report(folder: Path):
    corpus = load_corpus([str(folder)], options=OPTIONS)
    left = everything(corpus)
    for planted in (MAIL, "planted", KEY, "CODENAME"):
        assert planted not in left
    report = corpus_report(corpus)
    assert report["redacted"]["email"] >= 6
    assert corpus.counts["quarantined"] >= 3


@pytest.mark.slow
def test_names_that_are_redacted_stay_apart_stay_the_same_and_keep_their_suffix(folder: Path):
    first, again = (load_corpus([str(folder)], options=OPTIONS) for _ in range(2))
    sources = [document.source for document in first.documents]
    assert sources == [document.source for document in again.documents]
    assert len(set(sources)) == len(sources)
    rows = [source for source in sources if source.startswith("rows.jsonl#[email-")]
    assert len(rows) == 2
    tables = [d for d in first.documents if d.metadata["loader"] == "csv" and "#" in d.source]
    assert any(d.source.startswith("[email-") and ".csv#" in d.source for d in tables)


def test_without_redaction_names_are_left_alone(folder: Path):
    sources = {document.source for document in load_corpus([str(folder)]).documents}
    assert {f"from {MAIL}/letter.md", f"rows.jsonl#{MAIL}", MAIL} <= sources


def test_numbers_of_cards_in_columns_and_ids_are_taken_out(tmp_path: Path):
    rows = [{"id": 4111111111111111, "text": "Words.", "paid_with": 4111111111111111}, {"id": 2, "text": "More."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = load_corpus([str(tmp_path)], options=LoadOptions(redact=("card",)))
    assert "4111" not in everything(corpus)
    assert corpus.documents[0].metadata["fields"] == {"paid_with": "[card]"}
