"""The store holds whole, verified results or nothing."""

import errno
import json
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from raft_errors import RaftError
from tasks.store.hashing import read_sha256
from tasks.store.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "raft")
    store.prepare()
    return store


def put(store, key="k1", text="hello", describing=(), stage="chunk"):
    with store.publish(stage, key, describing) as (out, manifest):
        (out / "folder").mkdir()
        (out / "folder" / "a.txt").write_text(text)
        (out / "notes.txt").write_text(f"made by {id(out)}")
        manifest.summary = "one file"
    return manifest


def fail(store, key, error):
    """Builds half of a result and then fails."""
    with store.publish("chunk", key) as (out, _):
        (out / "half.txt").write_text("half")
        raise error


def test_what_was_published_is_found_again_with_its_files(store):
    manifest = put(store)
    again = store.load("chunk", "k1")
    assert again == manifest
    assert again.path("folder/a.txt").read_text() == "hello"
    assert [f.path for f in again.files] == ["folder/a.txt", "notes.txt"]


def test_nothing_is_found_where_nothing_was_published(store):
    assert store.inspect("chunk", "k1") == (None, "")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: f.unlink(), "a.txt is missing"),
        (lambda f: f.write_text("hell"), "a.txt has 4 bytes, not 5"),
        (lambda f: f.write_text("hallo"), "a.txt was altered"),
        (lambda f: shutil.rmtree(f.parent), "a.txt is missing"),
    ],
)
def test_a_missing_cut_or_altered_file_is_a_miss_that_names_the_file(store, harm, words):
    file = put(store).path("folder/a.txt")
    assert store.load("chunk", "k1")
    harm(file)
    manifest, wrong = store.inspect("chunk", "k1")
    assert manifest is None
    assert words in wrong


def test_an_altered_byte_is_noticed_though_size_and_times_were_put_back(store):
    file = put(store).path("folder/a.txt")
    before = file.stat()
    file.write_text("hallo")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.load("chunk", "k1") is None


STRANGE = {
    "a FIFO": os.mkfifo,
    "a socket": lambda path: _socket(path),
    "a folder": os.mkdir,
    "a link": lambda path: path.symlink_to(path.parents[3] / "twin"),
    "a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),  # /dev/zero
}


def _socket(path):
    before = Path.cwd()
    os.chdir(path.parent)  # its name may be no longer than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def make_strange(path, kind):
    try:
        STRANGE[kind](path)
    except PermissionError:
        pytest.skip("devices can be made by root alone")


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_what_is_no_file_is_damage_named_and_built_again(store, kind, name):
    file = put(store).path(name)
    (file.parents[3] / "twin").write_bytes(file.read_bytes())  # behind the link lie the right bytes
    file.unlink()
    make_strange(file, kind)
    manifest, wrong = store.inspect("chunk", "k1")
    if (kind, name) != ("a link", "manifest.json"):  # a link to a manifest that is right in every word
        assert manifest is None
        assert name in wrong
        assert kind in wrong or (kind, name) == ("a socket", "manifest.json")
    assert len(store.manifests("chunk")) <= 1, "looking around does not hang either"
    again = put(store)
    assert store.load("chunk", "k1") == again
    assert again.path(name).read_bytes()


def test_an_empty_result_that_became_a_fifo_does_not_hang(store):
    """Its size is right: only what it is tells it from the file."""
    with store.publish("chunk", "k1") as (out, _):
        (out / "dropped.jsonl").write_text("")
    file = store.folder("chunk", "k1") / "dropped.jsonl"
    file.unlink()
    os.mkfifo(file)
    assert store.inspect("chunk", "k1") == (None, "dropped.jsonl is a FIFO, not a file")


def test_a_folder_that_leads_out_of_the_store_is_damage(store, tmp_path):
    manifest = put(store)
    shutil.move(manifest.path("folder"), tmp_path / "elsewhere")
    manifest.path("folder").symlink_to(tmp_path / "elsewhere")
    assert store.inspect("chunk", "k1") == (None, "folder/a.txt lies outside of its folder")


@pytest.mark.parametrize("name", ["../k2/notes.txt", "/etc/hostname", "folder/../../k2/notes.txt"])
def test_a_manifest_that_names_files_elsewhere_is_damage(store, name):
    put(store, "k2")
    file = put(store).folder / "manifest.json"
    body = json.loads(file.read_text())
    target = file.parent / name
    entry = {"path": name, "size": target.stat().st_size, "sha256": read_sha256(target), "result": False}
    body["files"].append(entry)
    file.write_text(json.dumps({**body, "checksum": ""}))
    manifest, wrong = store.inspect("chunk", "k1")
    assert manifest is None
    assert "lies outside of its folder" in wrong


@pytest.mark.parametrize("key", ["../../elsewhere", "/etc", "", ".hidden"])
def test_a_manifest_that_was_built_from_a_place_outside_is_damage(store, key):
    file = put(store).folder / "manifest.json"
    body = json.loads(file.read_text())
    body["lineage"] = {"ingest": {"stage": "ingest", "key": key, "digest": "d"}}
    file.write_text(json.dumps({**body, "checksum": ""}))
    assert store.inspect("chunk", "k1") == (None, "manifest.json cannot be read (ValidationError)")


@pytest.mark.parametrize("field", ["summary", "metrics", "machine", "seconds", "ingredients"])
def test_a_manifest_altered_in_any_word_is_damage_though_its_files_are_whole(store, field):
    file = put(store).folder / "manifest.json"
    body = json.loads(file.read_text())
    body[field] = {"summary": "two files", "seconds": 1.0}.get(field, {"config": {"rank": 9}})
    file.write_text(json.dumps(body))
    assert store.inspect("chunk", "k1") == (None, "manifest.json was altered")
    del body["checksum"]
    file.write_text(json.dumps(body))
    assert store.load("chunk", "k1") is not None, "as those of earlier versions, which have none"


def test_a_manifest_whose_ingredients_are_no_tables_is_none(store):
    file = put(store).folder / "manifest.json"
    body = json.loads(file.read_text())
    file.write_text(json.dumps({**body, "checksum": "", "ingredients": {"inputs": [1], "code": 5}}))
    assert store.load("chunk", "k1") is None


def test_a_result_whose_folder_is_a_link_is_built_again(store, tmp_path):
    folder = put(store).folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert store.inspect("chunk", "k1") == (None, "its folder is a link")
    assert put(store).folder == folder
    assert not folder.is_symlink()


def test_a_result_whose_folder_is_a_link_to_nowhere_is_built_again(store, tmp_path):
    shutil.rmtree(put(store).folder)
    store.folder("chunk", "k1").symlink_to(tmp_path / "nowhere")
    assert store.load("chunk", "k1") is None
    again = put(store)
    assert store.load("chunk", "k1") == again


@pytest.mark.parametrize("kind", sorted(STRANGE))
def test_hashing_refuses_at_once_what_is_no_file(tmp_path, kind):
    path = tmp_path / "1" / "2" / "3"
    path.parent.mkdir(parents=True)
    (tmp_path / "twin").mkdir()
    make_strange(path, kind)
    with pytest.raises(OSError, match="3'"):
        read_sha256(path)


@pytest.mark.parametrize("harm", [b"", b"{", b'{"stage": "chunk"}', None])
def test_a_damaged_manifest_is_a_miss(store, harm):
    file = put(store).folder / "manifest.json"
    body = file.read_bytes()
    file.write_bytes(body.replace(b'"size":5', b'"size":6') if harm is None else harm)
    if harm is None:
        file.write_bytes(body.replace(b'"stage": "chunk"', b'"stage": "embed"'))
    assert store.load("chunk", "k1") is None


def test_an_error_while_building_leaves_the_store_as_it_was(store):
    with pytest.raises(RuntimeError):
        fail(store, "k1", RuntimeError())
    assert store.load("chunk", "k1") is None
    assert list((store.root / "store" / "chunk").iterdir()) == []


def test_a_damaged_result_is_replaced(store):
    put(store).path("folder/a.txt").unlink()
    again = put(store, text="hello")
    assert store.load("chunk", "k1") == again
    assert [p.name for p in (store.root / "store" / "chunk").iterdir()] == ["k1"]


def test_the_digest_covers_the_results_and_not_what_only_describes_the_build(store):
    one, two = put(store, "k1", describing=("notes.txt",)), put(store, "k2", describing=("notes.txt",))
    other = put(store, "k3", text="other", describing=("notes.txt",))
    assert one.files != two.files
    assert one.digest == two.digest != other.digest


def test_a_second_build_of_the_same_result_tells_of_the_files_that_are_kept(store):
    first, second = put(store, describing=("notes.txt",)), put(store, describing=("notes.txt",))
    assert second == first
    store.verify(second, deep=True)


def test_a_describing_file_is_verified_too(store):
    put(store, describing=("notes.txt",)).path("notes.txt").write_text("changed")
    assert store.load("chunk", "k1") is None


def test_a_store_can_be_moved(store, tmp_path):
    manifest = put(store)
    shutil.move(store.root, tmp_path / "elsewhere")
    again = Store(tmp_path / "elsewhere").load("chunk", "k1")
    assert again.digest == manifest.digest
    assert again.folder.is_relative_to(tmp_path / "elsewhere")


def test_the_latest_build_of_a_stage_is_known(store):
    assert store.latest("chunk") is None
    put(store, "k1")
    second = put(store, "k2")
    os.utime(second.folder / "manifest.json", ns=(0, 0))
    assert store.latest("chunk").key == "k1"


def test_a_full_disk_is_one_clear_error_and_the_store_stays_whole(store):
    put(store, "k1")
    with pytest.raises(RaftError, match="No space left") as caught:
        fail(store, "k2", OSError(errno.ENOSPC, "No space left on device"))
    assert "finished stages are intact" in str(caught.value)
    assert "run again" in str(caught.value)
    assert store.load("chunk", "k1")
    assert store.inspect("chunk", "k2") == (None, "")


def test_nothing_is_built_or_published_into_the_last_of_a_disk(store, monkeypatch):
    usage = shutil.disk_usage(store.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RaftError, match="No space left"):
        fail(store, "k1", AssertionError("the body should not be entered"))


def test_space_is_looked_at_again_before_publishing(store, monkeypatch):
    usage = shutil.disk_usage(store.root)
    left = [usage, usage._replace(free=1000)]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: left.pop(0))
    with pytest.raises(RaftError, match="No space left"), store.publish("chunk", "k1") as (out, _):
        (out / "a.txt").write_text("a")
    assert store.inspect("chunk", "k1") == (None, "")


def test_leftovers_of_dead_builds_are_removed_but_not_those_of_running_ones(store):
    folder = store.root / "store" / "chunk"
    for key in ("dead", "alive"):
        (folder / f".{key}.x1").mkdir(parents=True)
    running = store.lock("chunk", "alive")
    assert running.acquire()
    assert store.collect_leftovers() == 1
    assert [p.name for p in folder.iterdir()] == [".alive.x1"]
    running.release()
    assert store.collect_leftovers() == 1


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RaftError, match="cannot be written") as caught:
        Store(tmp_path / "file" / "raft").prepare()
    assert caught.value.exit_code == 2
