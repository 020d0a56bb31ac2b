"""What is known before a run begins: here the room that its results take."""

import json
import shutil
from types import SimpleNamespace

import pytest

from flows import preflight
from raft_errors import RaftError
from tasks.store.disks import SPARE_BYTES


@pytest.mark.parametrize(
    ("file", "settings", "times"),
    [
        ("model.safetensors", {"quantization_config": None}, 2),
        ("model.safetensors", {"quantization_config": {"load_in_4bit": True}}, 8),
        ("model.gguf", {}, 8),
    ],
)
def test_a_base_in_four_bits_needs_the_room_of_its_numbers_in_full(file, settings, times, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / file).write_bytes(bytes(1000))
    run = SimpleNamespace(
        section=lambda name: None,
        models={"base": SimpleNamespace(folder=tmp_path)},
        store=SimpleNamespace(cache=lambda name: None, root=tmp_path),
        config=SimpleNamespace(train=SimpleNamespace(base_precision="bfloat16")),
    )
    export = SimpleNamespace(stage=SimpleNamespace(name="export", models_for=lambda section: ("base",)))
    monkeypatch.setattr(preflight, "_of_the_base", lambda *_: [])
    usage = shutil.disk_usage(tmp_path)
    needed = SPARE_BYTES + times * 1000
    for free, enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if enough:
            preflight.check(run, [export])
        else:
            with pytest.raises(RaftError, match="free"):
                preflight.check(run, [export])
