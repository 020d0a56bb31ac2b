"""Without a home, a name, room or the right to write: it works, or one clear message says which folder to give."""

import contextlib
import getpass
import logging
import os
import pwd
import sqlite3
import stat
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import fake_stages
import pytest
from fake_stages import walk
from other_user import STRANGER, as_user, common_folder

from raft_errors import BadInput, RaftError
from tasks.inputs import models
from tasks.inputs.device import one_training
from tasks.store import places
from tasks.store.disks import SPARE_BYTES
from tasks.store.itemcache import SqliteCache
from tasks.store.source_manifest import Recorded, SourceManifest
from tasks.store.store import Store

HOME_VARIABLES = ("HOME", "RAFT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "LOGNAME", "USER", "TMPDIR")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An environment without a home, a cache or a user's name; its temporary folder."""
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with mock.patch.dict(os.environ):
        for name in (*HOME_VARIABLES, "LNAME", "USERNAME"):
            os.environ.pop(name, None)
        yield temporary


@pytest.fixture
def nameless(monkeypatch):
    """A user id that /etc/passwd does not know."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def mode(path):
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_without_a_home_a_private_folder_stands_in_for_us_and_for_every_library(bare, nameless):
    folder = places.cache_folder()
    assert folder == bare / f"raft-home-{os.getuid()}" / ".cache" / "raft"
    assert {mode(p) for p in (folder, folder.parents[1])} == {"0o700"}
    places.settle_home()
    assert Path.home() == folder.parents[1]
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert places.cache_folder() == folder


def test_a_home_that_does_not_exist_is_none(bare):
    os.environ["HOME"] = str(bare / "nowhere")
    places.settle_home()
    assert Path.home() == bare / f"raft-home-{os.getuid()}"


def test_a_home_that_is_there_stays_the_home(bare, tmp_path):
    os.environ["HOME"] = str(tmp_path)
    places.settle_home()
    assert places.cache_folder() == tmp_path / ".cache" / "raft"
    assert (Path.home(), "XDG_CACHE_HOME" in os.environ) == (tmp_path, False)
    assert mode(tmp_path / ".cache" / "raft") == "0o700"
    assert not list(bare.iterdir())


PLANTS = {
    "of another user": lambda path: (path.mkdir(mode=0o700), os.chown(path, STRANGER, STRANGER)),
    "open to all": lambda path: (path.mkdir(), path.chmod(0o777)),
    "open to a group": lambda path: (path.mkdir(), path.chmod(0o770)),
    "a link": lambda path: ((path.parent / "theirs").mkdir(mode=0o700), path.symlink_to(path.parent / "theirs")),
    "a file": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_folder_in_which_others_could_plant_models_does_not_stand_in(bare, nameless, plant):
    if plant == "of another user" and os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    PLANTS[plant](bare / f"raft-home-{os.getuid()}")
    for use in (places.cache_folder, places.settle_home):
        with pytest.raises(BadInput, match="not a private folder of this user") as caught:
            use()
        assert "set HOME or RAFT_CACHE" in caught.value.do


def test_where_a_cache_is_named_nothing_is_needed_below_the_temporary_folder(bare, nameless, tmp_path):
    PLANTS["open to all"](bare / f"raft-home-{os.getuid()}")
    os.environ["RAFT_CACHE"] = str(tmp_path / "cache")
    places.settle_home()
    assert places.cache_folder() == tmp_path / "cache"
    assert Path.home() == tmp_path / "cache" / "home"


@pytest.fixture
def common():
    with common_folder() as folder:
        folder.chmod(0o1777)
        yield folder


def elsewhere(common, home):
    """The environment of a container: a user id without a name, a working folder that cannot be written."""
    os.environ["HOME"] = str(home)
    for name in HOME_VARIABLES[1:]:
        os.environ.pop(name, None)
    os.environ.pop("USERNAME", None)
    tempfile.tempdir = str(common)
    os.chdir(common / "work")


@pytest.mark.parametrize("home", ["/", "/nonexistent", "read-only"])
def test_any_user_in_a_container_runs_stages_and_is_told_where_nothing_can_be_written(common, home):
    (common / "work").mkdir()
    (common / "read-only").mkdir()
    fake_stages.WORLD.log = Path("/dev/null")

    def work():
        elsewhere(common, common / home if home == "read-only" else home)
        places.settle_home()
        built = walk(Store(common / "raft"))
        assert built["third"].path("sum.txt").read_text() == "30"
        assert one_training().acquire(timeout_seconds=0)
        assert places.compile_cache().is_relative_to(common / f"raft-home-{STRANGER}")
        assert getpass.getuser() == f"uid-{STRANGER}"
        with pytest.raises(BadInput, match="cannot be written") as caught:
            Store(Path(".raft")).prepare()
        assert str(common / "work" / ".raft") in caught.value.what
        assert "another folder" in caught.value.do

    as_user(work)


def test_a_read_only_cache_is_read_and_says_once_that_nothing_is_kept(common, caplog):
    home = common / "home"
    cache = home / ".cache" / "raft"
    place = cache / "models" / "made-up--model@main"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    files = models._hash_all(place, ["config.json"])
    models.write_json(place / models.RESOLUTION, {"name": "x", "source": "hub 1", "converter": None, "files": files})
    (cache / "code.sqlite").write_bytes(b"")
    (common / "work").mkdir()

    def work():
        elsewhere(common, home)
        places.settle_home()
        caplog.clear()
        assert places.cache_folder() == cache
        assert models.on_this_machine("made-up/model").folder == place
        for name in ("code", "files", "other"):
            items = SqliteCache(cache / f"{name}.sqlite")
            items.put_many({"a": b"1"})
            assert items.get_many(["a"]) == {}
        warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert str(cache) in warnings[0]
        assert one_training().acquire(timeout_seconds=0), "trainings still exclude each other"
        with pytest.raises(BadInput, match=f"cannot be fetched into the cache {cache}") as caught:
            models.resolve("made-up/other")
        assert "RAFT_CACHE" in caught.value.do
        assert walk(Store(common / "raft"))["third"]

    as_user(work)


def test_nowhere_to_write_temporary_files_is_told_with_the_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="There is no place for temporary files") as caught:
        places.temporary_folder()
    assert str(tmp_path / "nowhere") in caught.value.what
    assert "set TMPDIR" in caught.value.do


# ---- full disks


@pytest.fixture
def disk(tmp_path):
    """Mounts a small disk of its own; skips where that is not allowed."""
    mounted = []

    def mount(name, size="1m"):
        place = tmp_path / name
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


def fill(folder):
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def publish(store, work):
    with store.publish("chunk", "k1") as (out, _):
        work(out)


def test_a_full_disk_of_temporary_files_is_told_as_theirs(disk, tmp_path, monkeypatch):
    temporary = disk("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    store = Store(tmp_path / "raft")

    def work(out):
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 2**21)

    with pytest.raises(RaftError, match="No space left") as caught:
        publish(store, work)
    assert f"on the disk of {temporary}, where the temporary files lie" in caught.value.what
    assert "TMPDIR" in caught.value.do
    assert str(store.root) not in caught.value.what
    assert store.inspect("chunk", "k1") == (None, "")


def test_a_full_disk_of_the_store_is_told_as_the_stores(disk, monkeypatch):
    folder = disk("store", f"{SPARE_BYTES // 2**20 + 4}m")
    store = Store(folder / "raft")
    with pytest.raises(RaftError, match=f"No space left on the disk of {store.root}") as caught:
        publish(store, lambda out: (out / "big").write_bytes(b"x" * (SPARE_BYTES + 2**23)))
    assert "set `store` to another disk" in caught.value.do
    assert not list((store.root / "store" / "chunk").iterdir())


@pytest.mark.parametrize("full", ["from the start", "later"])
def test_a_full_disk_of_the_cache_costs_what_it_would_keep_and_no_result(disk, tmp_path, monkeypatch, caplog, full):
    folder = disk("cache")
    monkeypatch.setenv("RAFT_CACHE", str(folder / "raft"))
    if full == "from the start":
        fill(folder)
    items = SqliteCache(places.cache_folder() / "files.sqlite")
    store = Store(tmp_path / "raft")
    if full == "later":
        items.put_many({"old": b"1"})
        fill(folder)

    def work(out):
        items.put_many({f"key{i}": b"x" * 1000 for i in range(1000)})
        (out / "result.txt").write_text("right")

    publish(store, work)
    assert store.load("chunk", "k1").path("result.txt").read_text() == "right"
    assert items.get_many(["old"]) == ({"old": b"1"} if full == "later" else {})
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert str(folder) in warnings[0]
    assert str(store.root) not in warnings[0]


@pytest.mark.parametrize("whose", ["the store's own", "another"])
def test_work_stops_where_neither_its_items_nor_its_result_could_be_kept(disk, tmp_path, caplog, whose):
    """A teacher that is paid is not asked for hours on the way to a disk without room."""
    root = disk("raft") if whose == "the store's own" else tmp_path / "raft"
    store = Store(root)
    store.prepare()
    folder = root
    if whose == "another":
        store.cache("files").close()
        folder = disk("elsewhere")
        (root / "cache").rename(root / "cache.old")
        (root / "cache").symlink_to(folder)
    items, files = store.cache("questions"), Store(root).cache("files")
    fill(folder)
    if whose == "another":
        items.put_many({f"key{i}": b"x" * 1000 for i in range(1000)})
        assert f"the cache {root}/cache/questions.sqlite cannot grow" in caplog.text
        return
    with pytest.raises(RaftError, match=f"No space left on the disk of {root}"):
        items.put_many({f"key{i}": b"x" * 1000 for i in range(1000)})
    files.put_many({f"key{i}": b"x" * 1000 for i in range(1000)})
    assert "files.sqlite cannot grow" in caplog.text, "looking costs no more than a warning"


def test_a_model_that_has_no_room_in_the_cache_says_so(disk, tmp_path, monkeypatch):
    folder = disk("cache")
    monkeypatch.setenv("RAFT_CACHE", str(folder / "raft"))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"x" * 2**21)
    monkeypatch.setattr(models, "hub_snapshot", lambda *a, **k: snapshot)
    with pytest.raises(RaftError, match=f"cannot be fetched into the cache {folder}/raft") as caught:
        models.resolve("made-up/model")
    assert "No space left" in caught.value.what
    assert "RAFT_CACHE" in caught.value.do
    assert models.on_this_machine("made-up/model") is None


# ---- the manifest of sources


SOURCE_HARMS = {
    "no database": lambda path: path.write_bytes(b"no database " * 1000),
    "a page of rubbish": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xa5" * 8192),
    "cut": lambda path: os.truncate(path, 5000),
    "empty": lambda path: os.truncate(path, 0),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "other tables": lambda path: (path.unlink(), _other_tables(path)),
}


def _other_tables(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE corpora(x)")
        db.execute("CREATE TABLE files(x)")


@pytest.mark.parametrize("harm", SOURCE_HARMS)
def test_a_damaged_manifest_of_sources_is_put_aside_and_begun_anew(tmp_path, caplog, harm):
    path = tmp_path / "sources.sqlite"
    now = Recorded({f"{i}.md": "1" * 64 for i in range(100)}, "k1")
    SourceManifest(path).write("c", "docs", now)
    SOURCE_HARMS[harm](path)
    assert SourceManifest(path).read("c") == Recorded()
    SourceManifest(path).write("c", "docs", now)
    assert SourceManifest(path).read("c") == now
    assert str(path) in caplog.text


def test_a_manifest_of_sources_that_cannot_be_written_costs_a_warning(disk, caplog):
    folder = disk("store")
    fill(folder)
    SourceManifest(folder / "sources.sqlite").write("c", "docs", Recorded({"a.md": "1"}, "k1"))
    assert f"{folder}/sources.sqlite cannot be written" in caplog.text


def test_a_cache_in_whose_place_something_else_is_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "file"))
    assert places.cache_folder() == tmp_path / "file"
    assert SqliteCache(places.cache_folder() / "files.sqlite").get_many(["a"]) == {}
