"""Judged sets are read in BEIR's layout and with TREC's qrels; what does not fit together is named."""

import gzip
import json

import pytest

from raft_errors import BadInput
from retrieval.judged_sets import read_judged_set

DOCUMENTS = [{"_id": "d1", "title": "Bridge", "text": "Iron."}, {"_id": "d2", "title": "", "text": "Salt."}]


def write(folder, documents=DOCUMENTS, queries=None, qrels="q1\t0\td1\t1\n"):
    folder.mkdir(exist_ok=True)
    queries = queries or [{"_id": "q1", "text": "What of?"}, {"_id": "q2", "text": "Which?"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels.tsv").write_text(qrels)
    return folder


def test_graded_judgements_of_beir_and_trec_are_the_same(tmp_path):
    trec = read_judged_set(write(tmp_path / "a", qrels="q1\t0\td1\t2\nq1\t0\td2\t0\nq2 0 d2 1\n"))
    beir = read_judged_set(write(tmp_path / "b", qrels="query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"))
    assert trec == beir
    assert [q.question for q in trec.questions] == ["What of?", "Which?"]
    first, second = trec.chunks
    assert trec.grades == {"q1": {first.id: 2, second.id: 0}, "q2": {second.id: 1}}
    assert trec.questions[0].gold_chunk_ids == (first.id,)
    assert (first.source, first.title, first.text) == ("d1", "Bridge", "Iron.")


def test_gzipped_files_and_other_names_are_found(tmp_path):
    folder = write(tmp_path / "a")
    raw = (folder / "corpus.jsonl").read_bytes()
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(raw))
    (folder / "queries.jsonl").unlink()
    (folder / "questions_test.jsonl").write_text('{"id": "q1", "question": "What of?"}\n')
    assert len(read_judged_set(folder).questions) == 1


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_empty_document_is_a_warning_and_left_out(tmp_path, caplog, nothing):
    documents = [*DOCUMENTS, {"_id": "d3", "title": "", "text": nothing}, {"_id": "d4", "title": nothing}]
    judged = read_judged_set(write(tmp_path / "a", documents, qrels="q1\t0\td1\t1\nq1\t0\td3\t1\n"))
    assert [chunk.source for chunk in judged.chunks] == ["d1", "d2"]
    assert judged.grades == {"q1": {judged.chunks[0].id: 1}}
    assert "2 of 4 documents are empty (d3, d4) and left out, with 1 judgements" in caplog.text
    caplog.clear()
    read_judged_set(write(tmp_path / "b"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"qrels": "q9\t0\td1\t1\n"}, "no query 'q9'"),
        ({"qrels": "q1\t0\td9\t1\n"}, "no document 'd9'"),
        ({"qrels": "q1\t0\td1\t0\n"}, "no document relevant"),
        ({"qrels": "q1 d1\n"}, "line 1"),
        ({"documents": [{"_id": "d1"}]}, "without text"),
        ({"documents": [{"text": "x"}]}, "without _id"),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path, files, words):
    with pytest.raises(BadInput, match=words):
        read_judged_set(write(tmp_path / "a", **files))


def test_missing_and_damaged_files_are_named(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "queries.jsonl").write_text("{oops\n")
    with pytest.raises(BadInput, match=r"queries.jsonl, line 1: not JSON"):
        read_judged_set(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(BadInput, match="has no queries"):
        read_judged_set(folder)
    (folder / "corpus.jsonl").rename(folder / "corpus.jsonl.gz")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n')
    with pytest.raises(BadInput, match="cannot be read"):
        read_judged_set(folder)
