"""Two stores with one share build once; whatever is wrong with the share costs a warning and never a run."""

import logging

import fake_stages
import fsspec
import pytest
from fake_stages import walk

from raft_errors import BadInput
from tasks.build.stage import run
from tasks.store import share as sharing
from tasks.store.manifest import MANIFEST
from tasks.store.share import Share
from tasks.store.store import Store
from tasks.upkeep import gc


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Bodies that ran since this was last asked."""
    log = tmp_path / "log"
    monkeypatch.setattr(fake_stages, "WORLD", fake_stages.World(log=log))

    def since():
        lines = log.read_text().split() if log.exists() else []
        log.write_text("")
        return lines

    return since


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/team"
        return
    yield "memory://team"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def open_store(tmp_path, url):
    return lambda name: Store(tmp_path / name, Share.at(url))


def shared_files(url, pattern):
    files, root = fsspec.core.url_to_fs(url)
    return files, sorted(files.glob(f"{root}/{pattern}"))


def result(store, walked):
    return {name: (store.load(name, m.key).digest, m.path(m.files[0].path).read_bytes()) for name, m in walked.items()}


def test_what_one_machine_built_the_other_fetches(open_store, ran):
    one, two = open_store("one"), open_store("two")
    built = walk(one)
    assert ran() == ["first", "second", "third"]
    fetched = walk(two)
    assert ran() == []
    assert result(two, fetched) == result(one, built)
    assert fetched["third"].folder.is_relative_to(two.root)
    assert {name: m.ingredients for name, m in fetched.items()} == {name: m.ingredients for name, m in built.items()}


def test_only_what_is_not_shared_is_built(open_store, ran):
    walk(open_store("one"))
    ran()
    walk(open_store("two"), second=fake_stages.SecondConfig(factor=7))
    assert ran() == ["second", "third"]


def test_a_forced_build_does_not_fetch(open_store, ran):
    walk(open_store("one"))
    ran()
    two = open_store("two")
    walk(two, step=lambda request: run(request, two, force=True))
    assert ran() == ["first", "second", "third"]


def test_an_upload_that_did_not_end_is_not_seen(open_store, url, ran):
    walk(open_store("one"))
    files, manifests = shared_files(url, f"third/*/{MANIFEST}")
    whole = files.cat_file(manifests[0])
    for left in (None, b"", whole[: len(whole) // 2]):
        files.rm_file(manifests[0])
        if left is not None:
            files.pipe_file(manifests[0], left)
        ran()
        store = open_store(f"two-{left is None}-{len(left or b'')}")
        walk(store)
        assert ran() == ["third"]
        assert files.cat_file(manifests[0]).startswith(b"{")


@pytest.mark.parametrize("harm", ["flipped", "cut", "deleted"])
def test_damage_is_refused_built_anew_and_mended(open_store, url, ran, caplog, harm):
    built = walk(open_store("one"))
    entry = next(e for e in built["first"].files if e.path == "numbers.txt")
    files, names = shared_files(url, f"first/*/{entry.sha256}")
    body = files.cat_file(names[0])
    files.rm_file(names[0])
    if harm != "deleted":
        files.pipe_file(names[0], body[:-1] if harm == "cut" else body[:-1] + bytes([body[-1] ^ 1]))
    ran()
    two = open_store("two")
    assert walk(two)["first"].path("numbers.txt").read_bytes() == body
    assert ran() == ["first"]
    assert [r.message for r in caplog.records if "damaged" in r.message]
    assert files.cat_file(names[0]) == body
    walk(open_store("three"))
    assert ran() == []


def test_a_manifest_that_leads_out_of_its_folder_is_refused(open_store, url, ran, tmp_path):
    walk(open_store("one"))
    files, manifests = shared_files(url, f"first/*/{MANIFEST}")
    files.pipe_file(manifests[0], files.cat_file(manifests[0]).replace(b"numbers.txt", b"../../evil.txt"))
    ran()
    walk(open_store("two"))
    assert "first" in ran()
    assert not list(tmp_path.rglob("evil.txt"))


class Broken:
    """A file system that answers nothing."""

    protocol = "broken"

    def __getattr__(self, name):
        def fail(*_, **__):
            raise RuntimeError("connection refused")

        return fail


def test_a_share_that_cannot_be_reached_costs_one_warning(tmp_path, ran, caplog):
    store = Store(tmp_path / "one", Share(Broken(), "team", "broken://team"))
    with caplog.at_level(logging.WARNING):
        walk(store)
    assert ran() == ["first", "second", "third"]
    assert [r.message for r in caplog.records if r.name == "raft.share"] == [
        "share broken://team: it cannot be read (connection refused): this run goes on without it"
    ]


def test_a_share_that_never_answers_is_given_up_soon(tmp_path, ran, caplog, monkeypatch):
    import threading

    released = threading.Event()

    class Mute(Broken):
        def open(self, path, mode):
            released.wait(60)
            raise FileNotFoundError(path)

    monkeypatch.setattr(sharing, "FIRST_WORD_SECONDS", 0.05)
    walk(Store(tmp_path / "one", Share(Mute(), "team", "mute://team")))
    released.set()
    assert ran() == ["first", "second", "third"]
    assert "no answer within" in caplog.text


def test_a_share_that_cannot_be_written_is_read_all_the_same(open_store, tmp_path, url, ran, caplog, monkeypatch):
    walk(open_store("one"))
    ran()

    def refuse(*_, **__):
        raise PermissionError("read-only")

    files, _ = shared_files(url, "*")
    for name in ("put_file", "pipe_file", "makedirs"):
        monkeypatch.setattr(type(files), name, refuse)
    walk(open_store("two"), second=fake_stages.SecondConfig(factor=7))
    assert ran() == ["second", "third"]
    assert len([r for r in caplog.records if r.name == "raft.share"]) == 1
    assert "results are not put there (read-only)" in caplog.text


def test_a_disk_writes_no_half_file_into_the_share(tmp_path, ran, monkeypatch):
    url = f"file://{tmp_path}/team"
    walk(Store(tmp_path / "one", Share.at(url)))
    assert not list((tmp_path / "team").rglob("*.part"))


def test_keys_and_manifests_know_nothing_of_the_share(open_store, tmp_path, ran):
    shared, alone = walk(open_store("one")), walk(Store(tmp_path / "alone"))
    assert {n: m.key for n, m in shared.items()} == {n: m.key for n, m in alone.items()}
    assert "team" not in shared["third"].model_dump_json()


def test_tidying_up_looks_at_the_local_store_alone(open_store, url, ran):
    store = open_store("one")
    walk(store)
    before = shared_files(url, "**")[1]
    gc.collect(store)
    assert shared_files(url, "**")[1] == before


@pytest.mark.parametrize("url", ["s3://user:hush@bucket/raft", "ftp://user:pa@ss@host/raft"])
def test_a_url_with_a_password_is_refused_without_showing_it(url):
    with pytest.raises(BadInput) as caught:
        Share.at(url)
    assert "hush" not in str(caught.value)
    assert "pa@ss" not in str(caught.value)


def test_what_is_no_url_or_needs_a_package_is_bad_input():
    with pytest.raises(BadInput, match="is not a URL"):
        Share.at("/mnt/team/raft")
    with pytest.raises(BadInput, match="cannot be used"):
        Share.at("nosuchfilesystem://bucket/raft")


def test_messages_show_the_url_without_its_query():
    assert Share.at("memory://team/raft?token=abc").shown == "memory://team/raft"
