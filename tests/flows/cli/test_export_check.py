"""`raft export --check`: a table of the programs that read an adapter as it is meant, and a form that all can read."""

import importlib.util
import json
import re
import shutil

import pytest

pytestmark = pytest.mark.slow


def test_the_adapter_of_a_run_is_read_by_all(finished):
    project, _ = finished
    report = project.json("export", "--check", "all")
    assert report["verdicts"] == dict.fromkeys(("peft", "vllm", "lorax", "tgi", "sglang", "llama.cpp"), "ok")
    assert report["ok"]
    if importlib.util.find_spec("xllamacpp"):
        assert re.search(r"(\d) of \1 chats give the engine's tokens, \d of \1 greedy answers", report["llama.cpp"])
    else:
        assert "the rules alone" in report["llama.cpp"]
        assert "llama-cpp" in report["llama.cpp"]
    table = project.raft("export", "--check", "vllm").stdout
    assert "rank 4" in table
    assert "lorax" not in table


def test_an_adapter_of_somebody_else_is_told_mended_or_refused_by_the_exit_code(finished, tmp_path):
    project, _ = finished
    ours = project.json("export", "--check", "peft")["adapter"]
    theirs = shutil.copytree(ours, tmp_path / "theirs")
    config = json.loads((theirs / "adapter_config.json").read_text())
    (theirs / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    said = project.raft("export", "--check", "llama.cpp", "--adapter", str(theirs), check=False)
    assert said.returncode == 1
    assert "mended" in said.stdout
    out = tmp_path / "written"
    assert project.json("export", "--check", "all", "--adapter", str(theirs), "--out", str(out))["ok"]
    written = json.loads((out / "adapter_config.json").read_text())
    assert (written["use_rslora"], written["lora_alpha"] / written["r"]) == (False, config["lora_alpha"] / 4**0.5)
    (theirs / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    said = project.raft("export", "--check", "tgi", "--adapter", str(theirs), check=False)
    assert (said.returncode, "refused" in said.stdout) == (1, True)


def test_what_cannot_be_asked_is_told(finished):
    project, _ = finished
    for arguments, words in ((("--check", "ollama"), "vllm"), (("--out", "x"), "--check all")):
        refused = project.raft("export", *arguments, check=False)
        assert refused.returncode == 2
        assert words in refused.stderr
