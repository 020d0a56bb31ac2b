"""A store is its owner's, or its group's, whatever the umask says; a stranger hears that it is closed."""

import ctypes
import errno
import os
import stat
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
from other_user import GROUP, STRANGER, as_user, common_folder

from raft_errors import BadInput, RaftError
from tasks.adapters import decisions
from tasks.adapters.registry import Registry
from tasks.store.access import GROUP as FOR_GROUP
from tasks.store.access import make_folder
from tasks.store.locks import FileLock
from tasks.store.source_manifest import Recorded
from tasks.store.store import Store
from tasks.upkeep import gc

OWNER, MEMBER = 64311, 64312


def put(store, key="k1", text="hello"):
    store.prepare()
    lock = store.lock("export", key)
    assert lock.acquire(timeout_seconds=0)
    with store.publish("export", key) as (out, manifest):
        (out / "folder").mkdir()
        (out / "folder" / "a.txt").write_text(text)
    lock.release()
    return manifest


def use_all(root, mode=0o700, key="k1"):
    """One of everything that lies in a store, made with a careless umask."""
    os.umask(0)
    store = Store(root, mode=mode)
    manifest = put(store, key)
    store.cache("chunk").put_many({"a": b"1"})
    store.sources.write("c", "docs", Recorded({"a.md": "1"}))
    with store.working():
        make_folder(store.scratch("train", key))
        (store.scratch("train", key) / "state").write_text("half")
        (root / "logs").mkdir(exist_ok=True)
    registry = Registry(store, "towns")
    registry.register({"export": manifest}, reason="trained")
    night = decisions.RetrainDecision(
        at="2026-01-01T03:00:00+00:00", action="refresh", reason="", result="refreshed", corpus="c", settings={}
    )
    decisions.append(store, "towns", night)
    return manifest.digest


def modes(root):
    """`{kind: modes}` of a folder and everything in it."""
    by_kind = {"folder": {stat.S_IMODE(root.stat().st_mode)}, "file": set()}
    for path in root.rglob("*"):
        if not path.is_symlink():
            by_kind["folder" if path.is_dir() else "file"].add(stat.S_IMODE(path.stat().st_mode))
    return by_kind


def as_member(work, user=OWNER):
    return as_user(work, user, (GROUP,))


@pytest.fixture
def common():
    with common_folder() as folder:
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_store_is_its_owners_alone_whatever_the_umask(tmp_path, umask):
    use_all(tmp_path / "raft")
    assert modes(tmp_path / "raft") == {"folder": {0o700}, "file": {0o600}}


def test_a_store_for_a_group_is_open_to_it_whatever_the_umask(tmp_path, umask):
    os.umask(0o077)
    use_all(tmp_path / "raft", FOR_GROUP)
    assert modes(tmp_path / "raft") == {"folder": {0o2770}, "file": {0o660}}


def test_a_store_made_before_keeps_its_mode_works_and_says_so(tmp_path, umask):
    (tmp_path / "raft").mkdir(mode=0o755)
    use_all(tmp_path / "raft")
    assert modes(tmp_path / "raft") == {"folder": {0o755}, "file": {0o644}}
    store = Store(tmp_path / "raft")
    assert store.load("export", "k1")
    assert f"Every user of this machine may read the store {store.root} (mode 755)" in store.notice
    store.root.chmod(0o700)
    assert store.notice == ""
    assert "store_access is group, but" in Store(store.root, mode=FOR_GROUP).notice


def test_a_stranger_hears_that_a_private_store_is_closed_and_what_to_do(common):
    root = common / "raft"
    as_member(lambda: use_all(root))
    with pytest.raises(BadInput, match="is closed to you") as caught:
        as_user(lambda: Store(root))
    assert str(root) in caught.value.what
    assert f"belongs to user {OWNER}" in caught.value.what
    assert "open it to your group" in caught.value.do


@pytest.mark.parametrize("opened", ["by the option", "by hand"])
@pytest.mark.slow
def test_a_second_user_of_the_group_locks_reads_builds_and_tidies(common, opened):
    root = common / "raft"

    def first():
        if opened == "by hand":
            root.mkdir()
            root.chmod(0o2770)
        return use_all(root, FOR_GROUP if opened == "by the option" else 0o700)

    def second():
        store = Store(root)
        old = store.load("export", "k1").digest
        use_all(root, key="k1")  # whatever the first made: its locks, caches, registry, log, checkpoints
        use_all(root, key="k2")
        assert store.cache("chunk").get_many(["a"]) == {"a": b"1"}
        assert Registry(store, "towns").promote(1, reason="by another").promoted == 1
        assert len(decisions.read_decisions(store, "towns")) == 3
        store.cache("chunk").close()
        Registry(store, "towns").roll_back(reason="")
        with gc.alone(store):
            gc.remove(store, [t for t in gc.plan(store).drop if t.kind == "result" and t.key == "k1"])
        return old, store.load("export", "k1")

    digest = as_member(first)
    assert as_member(second, MEMBER) == (digest, None)
    assert as_member(lambda: use_all(root), OWNER) == digest
    with pytest.raises(BadInput, match="closed to you"):
        as_user(lambda: Store(root), STRANGER)


def test_who_may_read_but_not_write_is_told_so(common):
    root = common / "raft"
    as_member(lambda: (root.mkdir(mode=0o755), use_all(root)))

    def second():
        store = Store(root)
        assert store.load("export", "k1"), "reading needs no right to write"
        with pytest.raises(BadInput, match="cannot be written") as refused:
            store.prepare()
        assert str(root) in refused.value.what
        with pytest.raises(BadInput, match=f"belongs to user {OWNER}") as locked:
            store.lock("export", "k1").acquire(timeout_seconds=0)
        assert str(store.lock("export", "k1").path) in locked.value.what

    as_user(second, MEMBER)


def test_nobody_sees_a_folder_with_other_rights_than_it_will_have(tmp_path, umask):
    """Two that make the same folder at once both find it, with its rights."""
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o2770)
    folder = make_folder(tmp_path / "group" / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o2770
    assert make_folder(folder) == folder
    assert [p.name for p in (tmp_path / "group").iterdir()] == ["a"]


@pytest.mark.parametrize("moment", ["os.path.lexists", "tempfile.mkdtemp"])
def test_a_folder_that_another_makes_meanwhile_is_used_and_never_replaced(tmp_path, monkeypatch, moment):
    """Replaced, it would be gone under the other's hands while it makes its first file there."""
    folder, step = tmp_path / "locks", resolve_name(moment)

    def late(*args, **options):
        if not folder.exists():
            folder.mkdir()
            late.inode = folder.stat().st_ino
        return step(*args, **options)

    monkeypatch.setattr(moment, late)
    assert make_folder(folder) == folder
    assert folder.stat().st_ino == late.inode
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, None])
def test_folders_are_made_where_the_kernel_cannot_rename_without_replacing(tmp_path, monkeypatch, number):
    def refused(*_):
        ctypes.set_errno(number)
        return -1

    kernel = SimpleNamespace(renameat2=refused) if number else SimpleNamespace()
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: kernel)
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_made_where_everybody_makes_things_is_private(tmp_path, umask):
    os.umask(0o022)
    common = tmp_path / "tmp"
    common.mkdir()
    common.chmod(0o1777)
    make_folder(common / "cache")
    FileLock(common / "a.lock").acquire()
    Store(common / "user" / "project" / "raft").prepare()
    assert {p.name: oct(stat.S_IMODE(p.stat().st_mode)) for p in common.rglob("*")} == {
        "cache": "0o700",
        "a.lock": "0o600",
        "user": "0o755",  # the user's own, by his umask
        "project": "0o755",
        "raft": "0o700",
    }


def test_what_lies_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "work").write_text("")
    with pytest.raises(RaftError, match=r"work is in the way"):
        make_folder(tmp_path / "work" / "train")


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link"])
def test_what_is_no_lock_file_is_refused_by_name_and_left_as_it_is(tmp_path, kind):
    path = tmp_path / "a.lock"
    (tmp_path / "precious").write_text("of somebody")
    {"FIFO": os.mkfifo, "folder": os.mkdir, "link": lambda p: p.symlink_to("precious")}[kind](path)
    lock = FileLock(path)
    with pytest.raises(RaftError, match=r"a\.lock is not a file"):
        lock.acquire(timeout_seconds=0)
    assert lock.holder() is None or kind == "link"
    assert (tmp_path / "precious").read_text() == "of somebody"
