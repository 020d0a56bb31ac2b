"""With a key, whoever can write to the share can withhold results and plant none; without one, names still stay in."""

import contextlib
import io
import json
import logging
import os
import pickle
import shutil
import stat
from pathlib import Path

import fake_stages
import pytest
from fake_stages import walk

from flows.plan import notices_of
from raft_errors import BadInput
from tasks.build.stage import run
from tasks.config import RunConfig
from tasks.store import share_files
from tasks.store.hashing import digest_of, read_sha256
from tasks.store.manifest import MANIFEST, Damage
from tasks.store.share import Share
from tasks.store.share_key import FILE_VARIABLE, VARIABLE, share_keys, signed
from tasks.store.store import Store

KEY, OTHER = "k" * 40, "o" * 40


@pytest.fixture
def team(tmp_path):
    return tmp_path / "team"


@pytest.fixture
def open_store(tmp_path, team, monkeypatch):
    """Opens a store with the share, and with the given key or none."""

    def opened(name, key=KEY):
        if key is None:
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, key)
        return Store(tmp_path / name, Share.at(f"file://{team}"))

    return opened


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


def shared(team, stage):
    """The manifest's file of the stage's one shared result, and what it says."""
    (file,) = team.glob(f"{stage}/*/{MANIFEST}")
    return file, json.loads(file.read_text())


def rewrite(file, body, key=None):
    body["checksum"] = ""  # whoever plants a manifest can leave it out
    file.write_text(json.dumps(signed(body, [key.encode()]) if key else body))


def plant(folder, body, files):
    """Puts files of one's own into a shared result, and makes the manifest agree with them in every word."""
    body["files"] = []
    for name, content in files.items():
        (folder / "new").write_bytes(content)
        sha256 = read_sha256(folder / "new")
        (folder / "new").rename(folder / sha256)
        body["files"].append({"path": name, "size": len(content), "sha256": sha256, "result": True})
    body["digest"] = digest_of({entry["path"]: entry["sha256"] for entry in body["files"]})


class Exploit:
    def __reduce__(self):
        return (Path.write_text, (Path(os.environ["RAFT_TEST_MARK"]), "loaded"))


@pytest.mark.slow
def test_what_one_signs_the_other_takes_and_the_key_is_written_nowhere(open_store, team, ran, tmp_path):
    built = walk(open_store("one"))
    assert ran() == ["first", "second", "third"]
    assert walk(open_store("two"))["third"].digest == built["third"].digest
    assert ran() == []
    assert len(shared(team, "third")[1]["signature"]) == 64
    for file in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert KEY.encode() not in file.read_bytes()
    assert "signature" not in (built["third"].folder / MANIFEST).read_text()


def test_keys_of_stages_and_results_do_not_depend_on_the_key(open_store, ran):
    one, two = walk(open_store("one")), walk(open_store("two", None))
    assert {n: (m.key, m.digest) for n, m in one.items()} == {n: (m.key, m.digest) for n, m in two.items()}


CHANGES = {
    "unsigned": lambda body: body.pop("signature"),
    "an empty signature": lambda body: body.update(signature=""),
    "a signature of another kind": lambda body: body.update(signature=["x"]),
    "a signature that is no ASCII": lambda body: body.update(signature="ß" * 64),
    "another summary": lambda body: body.update(summary="all is well"),
    "another digest": lambda body: body.update(digest="0" * 64),
    "other ingredients": lambda body: body["ingredients"].update(seed=7),
    "other parents": lambda body: body.update(lineage={"x": {"stage": "x", "key": "k", "digest": "d"}}),
    "a field more": lambda body: body.update(more=1),
    "a file less": lambda body: body["files"].pop(),
    "a describing file made a result": lambda body: body["files"][0].update(result=not body["files"][0]["result"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", [*CHANGES, "signed with another key", "of another key", "of another stage"])
@pytest.mark.parametrize("forced", [False, True])
def test_what_the_key_does_not_vouch_for_is_refused_by_name_and_left_as_it_is(
    open_store, team, ran, caplog, change, forced
):
    walk(open_store("one"))
    file, body = shared(team, "first")
    if change == "signed with another key":
        rewrite(file, {**body, "signature": None}, OTHER)
    elif change == "of another stage":
        shutil.copy(shared(team, "second")[0], file)
    elif change == "of another key":
        rewrite(file, {name: value for name, value in body.items() if name != "signature"} | {"key": "0" * 32}, KEY)
    else:
        CHANGES[change](body)
        rewrite(file, body)
    planted = file.read_bytes()
    ran()
    caplog.clear()
    two = open_store("two")
    results = walk(two, step=lambda request: run(request, two, force=forced))
    assert "first" in ran()
    assert results["first"].path("numbers.txt").read_text() == "0\n1\n2"
    assert file.read_bytes() == planted, "never overwritten"
    lines = [r.getMessage() for r in caplog.records if r.name == "raft.share"]
    named = f"first/{results['first'].key}"
    assert [line for line in lines if f"share {two.share.shown}: {named} is not put there" in line]
    if not forced:
        assert [line for line in lines if f"{named} is refused and not used" in line]


@pytest.mark.parametrize("signature", ["none", "old", "of the attacker"])
def test_a_planted_index_adapter_and_pickle_are_never_taken_or_loaded(
    open_store, team, ran, tmp_path, monkeypatch, signature
):
    monkeypatch.setenv("RAFT_TEST_MARK", str(tmp_path / "loaded"))
    walk(open_store("one"))
    files = {
        "index.faiss": b"IxF2 not what was built",
        "adapter/adapter_model.safetensors": b"weights of somebody else",
        "numbers.txt": pickle.dumps(Exploit()),
        "model.pkl": pickle.dumps(Exploit()),
    }
    file, body = shared(team, "first")
    old = body.pop("signature")
    plant(file.parent, body, files)
    rewrite(file, body | ({"signature": old} if signature == "old" else {}), OTHER if "attacker" in signature else None)
    ran()
    two = open_store("two")
    results = walk(two)
    assert ran() == ["first"], "the stages after it are signed and fit what was built here"
    assert results["first"].path("numbers.txt").read_text() == "0\n1\n2"
    assert not (tmp_path / "loaded").exists()
    for content in files.values():
        assert not [p for p in two.root.rglob("*") if p.is_file() and content in p.read_bytes()]
    taken = run(fake_stages.requests()[0]({}), open_store("three", None))
    assert taken.path("index.faiss").exists(), "the plant is one that is taken where no key is given"


def test_a_planted_file_under_a_signed_manifest_is_damage_and_mended(open_store, team, ran, caplog):
    built = walk(open_store("one"))
    entry = next(e for e in built["first"].files if e.path == "numbers.txt")
    place = team / "first" / built["first"].key / entry.sha256
    place.write_bytes(b"9" * entry.size)
    ran()
    walk(open_store("two"))
    assert ran() == ["first"]
    assert "damaged" in caplog.text
    assert read_sha256(place) == entry.sha256


def test_a_new_key_is_brought_in_beside_the_old_one(open_store, ran):
    walk(open_store("one", KEY))
    ran()
    walk(open_store("two", f"{OTHER} {KEY}"), second=fake_stages.SecondConfig(factor=7))
    assert ran() == ["second", "third"], "the old key still verifies"
    walk(open_store("three", OTHER), second=fake_stages.SecondConfig(factor=7))
    assert ran() == ["first"], "the first of two keys signs, and the old one is gone"


@pytest.mark.parametrize("text", ["", "   ", "short", f"{KEY} short"])
def test_a_key_that_is_none_is_refused_and_not_shown(tmp_path, text):
    (tmp_path / "key").write_text(text)
    for environment in ({VARIABLE: text}, {FILE_VARIABLE: str(tmp_path / "key")}):
        with pytest.raises(BadInput, match="RAFT_SHARE_KEY") as caught:
            share_keys(environment)
        assert not text.strip() or text not in str(caught.value)


def test_a_key_comes_from_one_place_that_can_be_read(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n{OTHER}\n")
    os.mkfifo(tmp_path / "fifo")
    assert share_keys({}) == ()
    assert share_keys({FILE_VARIABLE: str(tmp_path / "key")}) == (KEY.encode(), OTHER.encode())
    for name in ("nowhere", "fifo"):
        with pytest.raises(BadInput, match=f"{name} cannot be read"):
            share_keys({FILE_VARIABLE: str(tmp_path / name)})
    with pytest.raises(BadInput, match="both set"):
        share_keys({VARIABLE: KEY, FILE_VARIABLE: str(tmp_path / "key")})


def test_the_plan_says_who_is_trusted(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    config = RunConfig(store=str(tmp_path / "raft"), share=f"file://{tmp_path}/team")
    assert notices_of(config) == [
        f"share file://{tmp_path}/team: whoever can write there is trusted, since no key is set "
        "(RAFT_SHARE_KEY; docs/scheduling.md, Several machines)"
    ]
    monkeypatch.setenv(VARIABLE, KEY)
    assert notices_of(config) == []
    assert notices_of(RunConfig(store=str(tmp_path / "raft"))) == []


# ---- what a manifest may ask for, signed or not


def entries(*names, size=1):
    return [{"path": n, "size": size, "sha256": "0" * 64, "result": True} for n in names]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "why"),
    [
        (entries("/etc/passwd"), "it names a file '/etc/passwd'"),
        (entries("../evil.txt"), "it names a file '../evil.txt'"),
        (entries("a/../../evil.txt"), "it names a file"),
        (entries("a\\..\\evil.txt"), "it names a file"),
        (entries("a//b"), "it names a file"),
        (entries(""), "it names a file ''"),
        (entries("."), "it names a file '.'"),
        (entries("new\nline"), r"it names a file 'new\nline'"),
        (entries("nul\0"), "it names a file"),
        (entries("x" * 300), "it names a file"),
        (entries("Model.bin", "model.BIN"), "in two spellings"),
        (entries("caf\u00e9", "cafe\u0301"), "in two spellings"),
        (entries("a.txt", "a.txt"), "twice"),
        (entries("Manifest.JSON"), "in two spellings"),
        (entries("a", "A/b"), "as a file and as a folder"),
        (entries("a", size=-1), "has -1 bytes"),
        ([{**entries("a")[0], "sha256": "../../../../etc/passwd"}], "has the sha256"),
        (entries(*(str(i) for i in range(share_files.MOST_FILES + 1))), "it names 100001 files"),
    ],
)
def test_names_that_no_stage_would_leave_are_refused(open_store, team, ran, caplog, tmp_path, files, why):
    walk(open_store("one", None))
    file, body = shared(team, "first")
    rewrite(file, {**body, "files": files})
    ran()
    walk(open_store("two", None))
    assert ran() == ["first"]
    assert why in caplog.text
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device"])
@pytest.mark.parametrize("what", ["a file", "the manifest"])
def test_what_is_no_file_on_a_shared_disk_does_not_hang_a_run(open_store, team, ran, caplog, kind, what):
    walk(open_store("one"))
    file, body = shared(team, "first")
    place = file if what == "the manifest" else file.parent / body["files"][0]["sha256"]
    place.unlink()
    try:
        {
            "FIFO": os.mkfifo,
            "folder": os.mkdir,
            "device": lambda p: os.mknod(p, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
        }[kind](place)
    except PermissionError:
        pytest.skip("devices can be made by root alone")
    ran()
    results = walk(open_store("two"))
    assert ran() == ["first"]
    assert results["first"].path("numbers.txt").exists()
    assert f"it is a {kind}" in caplog.text


def test_a_size_beyond_the_disk_costs_a_warning_and_no_run(open_store, team, ran, caplog):
    walk(open_store("one", None))
    file, body = shared(team, "first")
    body["files"][0]["size"] = 2**62
    rewrite(file, body)
    ran()
    with caplog.at_level(logging.WARNING):
        walk(open_store("two", None))
    assert ran() == ["first"]
    assert "has no room" in caplog.text


@pytest.mark.parametrize(("size", "why"), [(10, "more than the 10 bytes"), (2**20 * 3, "less than the 3145728 bytes")])
def test_no_more_is_read_than_the_manifest_says(tmp_path, size, why):
    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            block = super().read(size)
            self.count += len(block)
            return block

    source = Counting(b"x" * 2**21)
    with pytest.raises(Damage, match=why):
        share_files.copy(source, tmp_path / "file", size, contextlib.nullcontext)
    assert source.count <= size + 1


def test_a_manifest_without_end_is_refused(open_store, team, ran, caplog, monkeypatch):
    walk(open_store("one"))
    file, _ = shared(team, "first")
    monkeypatch.setattr("tasks.store.share.MANIFEST_BYTES", 100)
    ran()
    walk(open_store("two"))
    assert "first" in ran()
    assert f"first/{file.parent.name} is refused and not used: it has more than 100 bytes" in caplog.text
