"""What people who call the libraries pass: a path as a text, one text where a list of them is meant."""

import json
from pathlib import Path

import numpy as np
import pytest

from data import (
    Chunk,
    digest,
    import_questions,
    load_corpus,
    read_jsonl,
    text_sha256,
    write_jsonl,
    write_records,
)
from jora_engine import Job
from raft_errors import BadInput
from retrieval import Retriever, build_index, open_index

TEXT = "The red valve closes at 90 degrees."


@pytest.fixture
def chunks() -> list[Chunk]:
    one = Chunk(digest("c"), digest("a.md"), 0, TEXT, 0, len(TEXT), 8, text_sha256(TEXT), "a.md", "Boiler")
    return [one]


def test_a_path_may_be_a_text_or_a_path(tmp_path, chunks):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(TEXT)
    folder = tmp_path / "docs"
    for sources in (str(folder), folder, [str(folder)], [folder]):
        assert load_corpus(sources).documents[0].text == TEXT
    assert write_jsonl(str(tmp_path / "chunks.jsonl"), chunks) == 1
    assert list(read_jsonl(str(tmp_path / "chunks.jsonl"), Chunk)) == chunks
    row = {"question": "When does it close?", "answer": "at 90 degrees", "document": "a.md"}
    (tmp_path / "qa.jsonl").write_text(json.dumps(row))
    for source in (str(tmp_path / "qa.jsonl"), tmp_path / "qa.jsonl"):
        assert len(import_questions(source, chunks).questions) == 1
    assert Path(tmp_path / "records" / "README.md") in write_records(str(tmp_path / "records"), {}, formats=["alpaca"])
    vectors = np.ones((1, 1), np.float32)
    build_index(vectors, [chunks[0].id], str(tmp_path / "index"), embedder={"digest": "d"})
    assert open_index(str(tmp_path / "index"), expect_embedder="d").search(vectors, 1)
    job = Job(model="base", train="train.jsonl", out="out", work="work")
    assert (job.train, job.validation) == (Path("train.jsonl"), None)


def test_one_text_is_not_taken_for_a_list_of_letters(chunks):
    with pytest.raises(BadInput, match="The queries are one text"):
        Retriever(None, None, chunks, mode="lexical").search("valve", 1)


@pytest.mark.parametrize("by_split", [[], {"../train": []}, {"a/b": []}])
def test_splits_have_plain_names_and_stay_in_their_folder(tmp_path, by_split):
    with pytest.raises(BadInput, match="no splits by name"):
        write_records(tmp_path / "records", by_split, formats="alpaca")
    assert not (tmp_path / "records").exists()
