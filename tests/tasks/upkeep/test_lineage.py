"""Lineage: the chain behind an adapter is told whole, and what does not hold is named."""

import json
import shutil
from pathlib import Path

import pytest
import small_chain

from raft_errors import BadInput
from tasks.inputs.models import ModelFiles
from tasks.store.manifest import MANIFEST
from tasks.store.store import Store
from tasks.upkeep.lineage import find_export, trace, verify


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def built(store):
    return small_chain.write_chain(store)


def size(path: Path) -> int:
    return path.stat().st_size


def models(role):
    return ModelFiles(role, Path(), small_chain.MODELS[role], "folder")


def faults(chain, store, **changes):
    given = {"stages": {}, "models": models, **changes}
    return [(f.step.split("/")[0], f.what) for f in verify(chain, store, **given) if f.fault]


def test_the_chain_names_every_stage_in_the_order_of_building(store, built):
    chain = trace(store, built["export"].link)
    assert [step.link.stage for step in chain.steps] == list(small_chain.STAGES)
    assert chain.step("ingest").outside == {"corpus": "c" * 63 + "0"}
    row = chain.to_dict()["steps"][5]
    assert row["stage"] == "records"
    assert (row["digest"], row["models"], row["seed"]) == (built["records"].digest, small_chain.MODELS, 0)
    assert {"config", "code", "packages", "files", "built"} <= set(row)


def test_an_undamaged_chain_holds(store, built):
    assert verify(trace(store, built["export"].link), store, stages={}, models=models) == []


@pytest.mark.parametrize("stage", small_chain.STAGES)
def test_a_changed_byte_in_any_stage_is_found(store, built, stage):
    chain = trace(store, built["export"].link)
    path = max((p for p in built[stage].folder.rglob("*") if p.is_file() and p.name != MANIFEST), key=size)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert (stage, f"{path.relative_to(built[stage].folder)} was altered") in faults(chain, store)


def test_a_manifest_that_was_rewritten_to_match_is_found_by_those_built_on_it(store, built):
    file = built["records"].folder / MANIFEST
    row = json.loads(file.read_text())
    row["ingredients"]["config"]["knob"] = 2
    file.write_text(json.dumps({**row, "checksum": ""}))
    names = faults(trace(store, built["export"].link), store)
    assert [stage for stage, what in names if "does not follow" in what] == ["records"]
    row["digest"] = "0" * 64
    file.write_text(json.dumps({**row, "checksum": ""}))
    names = faults(trace(store, built["export"].link), store)
    assert any("was built on" in what for stage, what in names)


def test_a_stage_that_is_gone_is_a_fault_and_the_rest_is_still_told(store, built):
    shutil.rmtree(built["questions"].folder)
    chain = trace(store, built["export"].link)
    assert chain.step("questions").manifest is None
    assert chain.step("questions").link == built["questions"].link
    assert [stage for stage, _ in faults(chain, store)] == ["questions"]


def test_another_base_model_is_a_fault_and_an_absent_one_is_said(store, built):
    chain = trace(store, built["export"].link)
    other = ModelFiles("base", Path(), "f" * 64, "folder")
    assert {stage for stage, _ in faults(chain, store, models=lambda role: other)} == {"records", "evaluate"}
    assert faults(chain, store, models=lambda role: None) == []
    findings = verify(chain, store, stages={}, models=lambda role: None)
    assert all("not on this machine" in f.what for f in findings)
    assert findings


def test_a_changed_corpus_is_told_and_is_no_fault(store, built):
    chain = trace(store, built["export"].link)
    findings = verify(chain, store, stages={}, models=models, corpus=lambda: "another")
    assert [(f.step, f.fault) for f in findings] == [("corpus", False)]


def test_a_chain_with_an_earlier_adapter_in_it_tells_the_own_steps_apart(store, built):
    newer = small_chain.write_chain(store, {**small_chain.TEXTS, "cedar.md": "Cedar."}, seed=1)
    file = newer["train"].folder / MANIFEST
    row = json.loads(file.read_text())
    row["lineage"]["start"] = built["export"].link.model_dump()
    file.write_text(json.dumps({**row, "checksum": ""}))
    chain = trace(store, newer["export"].link)
    assert len(chain.steps) == 17  # all but the earlier one's evaluation
    for stage in ("ingest", "records", "train"):
        assert chain.step(stage).link == newer[stage].link


def test_an_adapter_is_found_by_key_by_digest_and_by_a_copy_of_its_folder(store, built, tmp_path):
    link = built["export"].link
    assert find_export(store, link.key[:6]) == find_export(store, link.digest[:6]) == find_export(store) == link
    copied = shutil.copytree(built["export"].path("adapter"), tmp_path / "copied")
    assert find_export(store, str(copied)) == link
    (copied / "adapter_model.safetensors").write_text("other weights")
    with pytest.raises(BadInput, match="not made by any export"):
        find_export(store, str(copied))
    with pytest.raises(BadInput, match="fit 'zz'"):
        find_export(store, "zz")
    with pytest.raises(BadInput, match="no adapter in"):
        find_export(Store(tmp_path / "empty"))
