"""Frozen questions are asked for as long as they still tell something; the others are counted by reason."""

import pytest

from data.nouns import Chunk, Record, write_jsonl
from tasks.runtime.folders import write_json
from tasks.store.store import Store
from tasks.work.gate import usable


def chunk(identity, document):
    return Chunk(identity, document, 0, "text", 0, 4, 1, "sha", f"{document}.md", document)


def question(name, documents, passages, oracles):
    meta = {
        "record_id": name,
        "documents": "unseen",
        "document_ids": documents,
        "oracle_ids": oracles,
        "passages": [{"chunk_id": c, "document_id": d} for c, d in passages],
    }
    return Record("ask", "passages", "answer", meta)


FROZEN = [
    question("kept", ["a"], [("a1", "a"), ("b1", "b")], ["a1"]),
    question("edited distractor", ["a"], [("a1", "a"), ("b-old", "b")], ["a1"]),
    question("edited oracle", ["b"], [("b-old", "b")], ["b-old"]),
    question("deleted distractor", ["a"], [("a1", "a"), ("d1", "d")], ["a1"]),
    question("trained on now", ["c"], [("c1", "c")], ["c1"]),
]
CHUNKS = {c.id: c for c in (chunk("a1", "a"), chunk("b1", "b"), chunk("c1", "c"))}


@pytest.fixture
def frozen(tmp_path):
    store = Store(tmp_path / "raft")
    store.prepare()
    with store.publish("records", "k") as (out, manifest):
        write_jsonl(out / "test.jsonl", FROZEN)
        write_json(out / "contract.json", {"template_version": "1"})
    return manifest


def test_what_is_left_of_the_frozen_test_set(frozen):
    kept, left_out = usable(frozen, CHUNKS, {"c"}, {"template_version": "1"})
    assert [r.metadata["record_id"] for r in kept] == ["kept", "edited distractor"]
    assert left_out == {
        "whose answers' passages were edited": 1,
        "with passages of deleted documents": 1,
        "on documents that are trained on now": 1,
    }


def test_another_prompt_template_ends_the_frozen_test_set(frozen):
    kept, left_out = usable(frozen, CHUNKS, set(), {"template_version": "2"})
    assert (kept, left_out) == ([], {"of another prompt template": 5})
