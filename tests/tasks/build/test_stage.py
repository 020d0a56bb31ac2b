"""A stage is built once per key, by one builder, and never published half."""

import dataclasses
import os

import fake_stages
import pytest
from fake_stages import FirstConfig, SecondConfig, Source, walk

from raft_errors import BadInput, RaftError
from tasks.build import stage
from tasks.build.events import Damaged
from tasks.build.stage import is_transient, run
from tasks.store.hashing import read_sha256
from tasks.store.locks import FileLock
from tasks.store.store import Store
from tasks.work.bench import Outcome, balanced


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A store, and the list of the bodies that ran in it."""
    monkeypatch.setattr(stage, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(fake_stages, "WORLD", fake_stages.World(log=tmp_path / "log"))
    store = Store(tmp_path / "raft")

    class World:
        def __init__(self):
            self.store = store
            self.fail = fake_stages.WORLD.fail

        def ran(self):
            """Bodies that ran since this was last asked."""
            log = fake_stages.WORLD.log
            lines = log.read_text().split() if log.exists() else []
            log.write_text("")
            return lines

    return World()


def test_every_stage_runs_once_and_then_never_again(world):
    one = walk(world.store)
    assert world.ran() == ["first", "second", "third"]
    two = walk(world.store)
    assert world.ran() == []
    assert one == two
    assert one["third"].path("sum.txt").read_text() == "30"


def test_a_changed_field_rebuilds_its_stage_and_what_follows_from_it(world):
    walk(world.store)
    world.ran()
    walk(world.store, second=SecondConfig(factor=11))
    assert world.ran() == ["second", "third"]


def test_a_field_without_meaning_for_the_result_rebuilds_nothing(world):
    walk(world.store)
    world.ran()
    walk(world.store, first=FirstConfig(workers=7))
    assert world.ran() == []


def test_a_rebuilt_stage_with_the_same_result_stops_the_cascade(world):
    walk(world.store)
    world.ran()
    walk(world.store, source=Source("source-2"))
    assert world.ran() == ["first"]


def test_a_deleted_file_rebuilds_only_its_stage(world):
    walk(world.store)["second"].path("products.txt").unlink()
    world.ran()
    walk(world.store)
    assert world.ran() == ["second"]


def test_a_flipped_byte_is_told_and_rebuilds_only_its_stage(world):
    file = walk(world.store)["third"].path("sum.txt")
    file.write_text("31")
    world.ran()
    events = []
    assert walk(world.store, events.append)["third"].path("sum.txt").read_text() == "30"
    assert world.ran() == ["third"]
    assert [event for event in events if isinstance(event, Damaged)] == [Damaged("third", "sum.txt was altered")]


def test_a_forced_run_builds_what_is_there_already(world):
    walk(world.store)
    world.ran()
    walk(world.store, step=lambda request: run(request, world.store, force=True))
    assert world.ran() == ["first", "second", "third"]


def test_lineage_names_what_a_stage_was_built_from(world):
    built = walk(world.store)
    assert built["third"].lineage == {"second": built["second"].link}
    assert stage.ancestry([built["third"]], world.store) == {n: m.digest for n, m in built.items()}


@pytest.mark.parametrize(
    "error", [ConnectionError("lost"), TimeoutError(), OSError(5, "I/O"), stage.Transient("stopped")]
)
def test_a_transient_failure_is_tried_again(world, error):
    world.fail.append(error)
    walk(world.store)
    assert world.ran() == ["first", "first", "second", "third"]


@pytest.mark.parametrize(
    "error", [BadInput("no"), RaftError("no"), ValueError("no"), FileNotFoundError("no"), PermissionError("no")]
)
def test_what_trying_again_cannot_mend_fails_at_once(world, error):
    world.fail.append(error)
    with pytest.raises(type(error)):
        walk(world.store)
    assert world.ran() == ["first"]


def test_a_full_disk_fails_at_once(world):
    world.fail.append(OSError(28, "No space left on device"))
    with pytest.raises(RaftError, match="No space left"):
        walk(world.store)
    assert world.ran() == ["first"]


def test_giving_up_after_three_attempts_raises_the_last_failure(world):
    world.fail += [ConnectionError("1"), ConnectionError("2"), ConnectionError("3"), ConnectionError("4")]
    with pytest.raises(ConnectionError, match="3"):
        walk(world.store)
    assert len(world.fail) == 1


def test_the_scratch_folder_outlives_a_failure_and_not_a_success(world):
    places = []

    def body(bench, config, corpus):
        places.append(bench.scratch)
        if not (bench.scratch / "checkpoint").exists():
            (bench.scratch / "checkpoint").write_text("half way")
            raise RaftError("stopped")
        (bench.out / "result.txt").write_text("done")
        return Outcome("done")

    changed = dataclasses.replace(fake_stages.FIRST, build=body)
    request = stage.Request(changed, FirstConfig(), {"corpus": Source()})
    with pytest.raises(RaftError):
        run(request, world.store)
    run(request, world.store)
    assert places[0] == places[1]
    assert not places[0].exists()


def test_what_has_no_digest_cannot_be_an_input(world):
    with pytest.raises(TypeError, match="no content digest"):
        stage.Request(fake_stages.FIRST, FirstConfig(), {"corpus": "a path"}).key()


def test_an_optional_input_counts_only_where_it_is_given():
    plain = stage.Request(fake_stages.FIRST, FirstConfig(), {"corpus": Source()})
    either = dataclasses.replace(fake_stages.FIRST, build=fake_stages.first_or_earlier)
    assert (either.inputs, either.optional) == (("corpus",), ("earlier",))
    keys = [
        stage.Request(either, FirstConfig(), either.bind(Source(), earlier=earlier)).key()
        for earlier in (None, Source("a"), Source("b"))
    ]
    assert keys[0] == plain.key(), "a stage that could have taken one keeps its key"
    assert len({*keys}) == 3


@pytest.mark.parametrize("given", [((), {}), ((1, 2), {}), ((1,), {"later": 2})])
def test_a_stage_is_given_what_it_takes(given):
    inputs, optional = given
    either = dataclasses.replace(fake_stages.FIRST, build=fake_stages.first_or_earlier)
    with pytest.raises(TypeError, match=r"Stage first takes \(corpus, earlier=\)"):
        either.bind(*inputs, **optional)


def test_the_seed_counts_only_for_stages_that_draw():
    plain = [stage.Request(fake_stages.FIRST, FirstConfig(), {"corpus": Source()}, seed=s).key() for s in (1, 2)]
    drawing = dataclasses.replace(fake_stages.FIRST, seeded=True)
    drawn = [stage.Request(drawing, FirstConfig(), {"corpus": Source()}, seed=s).key() for s in (1, 2)]
    assert plain[0] == plain[1]
    assert drawn[0] != drawn[1]


def test_counts_must_add_up():
    balanced("ingest", 3, 2, 1)
    with pytest.raises(RaftError, match="3 came in, but 2 went out and 0 were dropped"):
        balanced("ingest", 3, 2, 0)


def test_errors_of_a_person_are_never_transient():
    assert not is_transient(BadInput("no"))
    assert is_transient(ConnectionResetError())


def test_a_pipe_in_a_files_place_is_not_tried_again(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe") as caught:
        read_sha256(tmp_path / "pipe")
    assert not is_transient(caught.value)


def test_a_stage_that_needs_a_device_alone_holds_it_while_it_works_and_no_longer(tmp_path):
    def device() -> FileLock:
        return FileLock(tmp_path / "device.lock")

    def taken() -> bool:
        other = device()
        free = other.acquire(timeout_seconds=0)
        if free:
            other.release()
        return not free

    def build(bench, config) -> Outcome:
        assert taken()
        return Outcome("done")

    run(
        stage.Request(stage.Stage("alone", FirstConfig, build, alone=device), FirstConfig(), {}),
        Store(tmp_path / "raft"),
    )
    assert not taken()
