"""The extra for GPUs can be installed: one set of versions fits it and all else, on each Python it is offered for."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def test_the_page_for_gpus_names_the_extra_and_the_versions_of_the_pins():
    page = (ROOT / "docs" / "gpu.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [line.split(";")[0].split(">")[0] for line in extras["cuda13"]] == ["jax[cuda13]"]
    assert "'.[cuda13]'" in page
    assert f"jax {PINS['jax']}" in page


@pytest.mark.heavy  # asks the package index
@pytest.mark.parametrize("version", ["3.11.5", "3.12.0"])
def test_the_extra_resolves_with_everything_else(version, tmp_path):
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: pip install -e '.[test]'")
    try:
        urllib.request.urlopen("https://pypi.org/simple/jax-cuda13-plugin/", timeout=20).close()
    except OSError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    options = ["--python-version", version, "--python-platform", "x86_64-manylinux_2_28", "--extra", "cuda13"]
    options += ["-c", str(ROOT / "constraints.txt"), "-o", str(tmp_path / "versions.txt")]
    command = [sys.executable, "-P", "-m", "uv", "pip", "compile", "--quiet", *options, str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    chosen = dict(re.findall(r"^([\w.-]+)==(\S+)", (tmp_path / "versions.txt").read_text(), re.MULTILINE))
    assert {chosen[name] for name in ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt")} == {PINS["jax"]}
    assert {"nvidia-cudnn-cu13", "nvidia-nccl-cu13", "nvidia-cublas"} <= chosen.keys()
