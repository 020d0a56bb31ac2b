"""The configurations under examples/ are valid, and their meshes and batches agree."""

import math
from pathlib import Path

import pytest

from tasks.config import load_config

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_valid_and_says_what_it_takes(path):
    config = load_config(path)
    head = path.read_text().split("corpus:")[0]
    assert f"raft plan examples/{path.name} --engine" in head
    if path.stem.endswith("gpu"):
        devices = int(path.stem[-4])
        assert config.train.mesh != "auto"
        assert math.prod(config.train.mesh) == devices
        assert config.train.micro_batch_rows % (config.train.mesh[0] * config.train.mesh[1]) == 0
        assert f"--devices {devices}" in head
        assert "GiB a device" in head
