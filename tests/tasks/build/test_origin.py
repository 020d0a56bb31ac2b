"""A manifest tells which machine computed the result; key and digest do not depend on it, and older ones still load."""

import json

from fake_stages import walk

from jora_engine.training.machine import describe
from raft_version import VERSION
from tasks.build import origin
from tasks.build.origin import elsewhere, in_words
from tasks.store.manifest import MANIFEST
from tasks.store.store import Store

H200 = {"backend": "gpu", "device_kind": "NVIDIA H200", "devices": 8}


def test_a_result_tells_the_machine_that_computed_it(tmp_path):
    manifest = walk(Store(tmp_path))["third"]
    machine = json.loads((manifest.folder / MANIFEST).read_text())["machine"]
    assert machine.items() >= {name: value for name, value in describe().items() if name != "cores"}.items()
    assert elsewhere(machine) == ""
    assert machine["raft"] == VERSION
    assert in_words(machine).endswith(f"raft {VERSION}")


def test_another_machine_has_the_same_key_and_digest(tmp_path, monkeypatch):
    here = walk(Store(tmp_path / "here"))["third"]
    monkeypatch.setattr(origin, "_here", lambda: {**describe(), "cpu": "Other 9000", "cpu_features": ["avx1024"]})
    there = walk(Store(tmp_path / "there"))["third"]
    assert there.machine["cpu"] == "Other 9000"
    assert here.machine != there.machine
    assert (here.key, here.digest) == (there.key, there.digest)


def test_a_manifest_from_before_machines_were_told_is_used(tmp_path):
    store = Store(tmp_path)
    manifest = walk(store)["first"]
    path = manifest.folder / MANIFEST
    row = json.loads(path.read_text())
    del row["machine"]
    path.write_text(json.dumps({**row, "checksum": ""}))
    old = store.load("first", manifest.key)
    assert old.digest == manifest.digest
    assert (old.machine, elsewhere(old.machine), in_words(old.machine)) == ({}, "", "")


def test_another_kind_of_machine_is_named_and_another_of_the_same_kind_is_not():
    here = describe()
    assert elsewhere({**here, "cpu": "same kind, newer", "cores": here["cores"] + 1}) == ""
    assert (
        elsewhere({**here, "cpu": "Other 9000", "cpu_features": ["avx1024"]})
        == "made on another processor (Other 9000)"
    )
    assert elsewhere({**here, **H200}) == "made on NVIDIA H200"
    assert in_words({**here, **H200, "attention": "cudnn"}).endswith(
        f"8 × NVIDIA H200, attention cudnn, jax {here['packages']['jax']}"
    )


def test_kernels_other_than_those_of_this_machine_are_told(monkeypatch):
    here = {**describe(), "backend": "cpu"}
    monkeypatch.setattr(origin, "name_here", lambda: "avx512-1")
    assert elsewhere({**here, "kernels": "avx512-1"}) == elsewhere(here) == ""
    assert elsewhere({**here, "kernels": "xla"}) == "made on other kernels (xla instead of avx512-1)"
    assert elsewhere({**here, **H200, "kernels": "xla"}) == "made on NVIDIA H200"


def test_what_a_child_process_tells_of_its_devices_counts():
    assert origin.this_machine({**H200, "attention": "cudnn"}).items() >= {**H200, "attention": "cudnn"}.items()
