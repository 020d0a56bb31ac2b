"""What a document has touched: told from the store's files, whatever the configuration says now."""

import json

import pytest
import small_chain

from raft_errors import BadInput
from tasks.adapters.registry import Registry
from tasks.store.store import Store
from tasks.upkeep.touched import fits, touched


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_chunks_questions_records_and_adapters_of_a_document_are_listed(store):
    built = small_chain.write_chain(store)
    Registry(store, "law").register(built, reason="test")
    traces = touched(store, "alder.md")
    assert traces.sources == ("alder.md",)
    assert traces.chunks == (small_chain.chunk_id("alder.md", small_chain.TEXTS["alder.md"]),)
    assert traces.questions == ("q-alder.md",)
    assert {(r.id, r.split, r.role) for r in traces.records} == {
        ("r-alder.md", "train", "oracle"),
        ("r-birch.md", "test", "distractor"),
    }
    (adapter,) = traces.adapters
    assert (adapter.version, adapter.state, adapter.trained_on, adapter.tested_on) == ("law:1", "candidate", 1, 1)
    assert {t.stage for t in traces.folders} == set(small_chain.STAGES)


def test_an_adapter_that_never_saw_the_document_is_not_listed(store):
    old = small_chain.write_chain(store)
    new = small_chain.write_chain(store, {**small_chain.TEXTS, "cedar.md": "Cedar has a salt market."}, seed=1)
    traces = touched(store, "cedar.md")
    assert [a.key for a in traces.adapters] == [new["export"].key]
    assert not {t.key for t in traces.folders} & {m.key for m in old.values()}
    assert traces.adapters[0].trained_on > 0  # a distractor in training: its words were read
    assert traces.adapters[0].tested_on > 0


def test_a_document_that_left_the_corpus_is_still_found_in_the_adapter_it_taught(store):
    small_chain.write_chain(store)
    small_chain.write_chain(store, {"birch.md": small_chain.TEXTS["birch.md"], "elm.md": "Elm."}, seed=1)
    traces = touched(store, "alder.md")
    assert len(traces.adapters) == 1
    assert len(traces.folders) == len(small_chain.STAGES)


def test_a_document_that_is_nowhere_is_said(store):
    small_chain.write_chain(store)
    with pytest.raises(BadInput, match=r"No document .* is called 'zzz.md'"):
        touched(store, "zzz.md")


def test_names_are_whole_parts_or_patterns():
    assert fits("leave.md", "handbook/leave.md")
    assert fits("handbook/*", "handbook/leave.md")
    assert not fits("eave.md", "handbook/leave.md")
    assert not fits("handbook", "handbook/leave.md")
    assert fits("it.csv", "tables/it.csv#7")
    assert fits("old.zip", "old.zip/a.md")
    assert fits("a\\nb.md", "a\nb.md")
    assert not fits("it", "it.csv#7")


def test_a_file_that_could_not_be_read_is_known_by_its_reason(store):
    built = small_chain.write_chain(store)
    row = {"source": "scan.pdf", "reason": "no-text", "detail": "its pages hold no text"}
    built["ingest"].path("quarantine.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=r"Nothing was made of scan.pdf \(no-text: its pages hold no text\)"):
        touched(store, "scan.pdf")
