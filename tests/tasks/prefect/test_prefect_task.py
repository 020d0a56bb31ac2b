"""Stages as Prefect tasks: Prefect shows and skips, the store decides. One server for all tests of this file."""

import shutil
from pathlib import Path

import fake_stages
import pytest
from fake_stages import SecondConfig, walk

from raft_errors import BadInput
from tasks.build.events import silent
from tasks.prefect import task as prefect_task
from tasks.prefect.task import Boxed, FlockLockManager, ManifestSerializer, stage_task
from tasks.store.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(quiet):
        yield


@pytest.fixture
def world(server, tmp_path, monkeypatch):
    monkeypatch.setattr(prefect_task, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(fake_stages, "WORLD", fake_stages.World(log=tmp_path / "log"))

    class World:
        store = Store(tmp_path / "raft")
        fail = fake_stages.WORLD.fail
        records = tmp_path / "records"

        def run(self, force=False, **configs):
            """Runs the three stages as tasks of a flow; returns the manifests and each task's final state name."""
            from prefect import flow

            states = {}

            def note(task, run, state):
                states[task.name] = state.name

            def step(request):
                made = stage_task(request.stage, self.store, force=force)
                made = made.with_options(result_storage=self.records, on_completion=[note], on_failure=[note])
                return made(Boxed(request))

            @flow(name="three")
            def three():
                return None if walk(self.store, step=step, **configs) is None else True

            self.records.mkdir(exist_ok=True)
            three()
            return states

        def ran(self):
            log = fake_stages.WORLD.log
            lines = log.read_text().split() if log.exists() else []
            log.write_text("")
            return lines

    return World()


ALL = ["first", "second", "third"]


def test_a_second_flow_shows_every_stage_as_cached_and_runs_no_body(world):
    assert world.run() == dict.fromkeys(ALL, "Completed")
    assert world.ran() == ALL
    assert world.run() == dict.fromkeys(ALL, "Cached")
    assert world.ran() == []


def test_a_stage_whose_artefact_is_gone_or_altered_runs_again_though_prefect_has_its_record(world):
    """Guards what the design rests on: Prefect takes a serializer's error as "no record"."""
    world.run()
    world.ran()
    folder = next((world.store.root / "store" / "second").iterdir())
    shutil.rmtree(folder)
    assert world.run() == {"first": "Cached", "second": "Completed", "third": "Cached"}
    assert world.ran() == ["second"]
    (folder / "products.txt").write_text("7")
    assert world.run() == {"first": "Cached", "second": "Completed", "third": "Cached"}
    assert world.ran() == ["second"]


def test_losing_all_of_prefects_records_costs_no_work(world):
    world.run()
    world.ran()
    shutil.rmtree(world.records)
    assert world.run() == dict.fromkeys(ALL, "Completed")
    assert world.ran() == []


def test_a_flow_fetches_what_another_machine_shared(world, tmp_path):
    from tasks.store.share import Share

    walk(Store(tmp_path / "elsewhere", Share.at(f"file://{tmp_path}/team")))
    world.ran()
    world.store = Store(tmp_path / "here", Share.at(f"file://{tmp_path}/team"))
    world.run()
    assert world.ran() == []
    assert len(world.store.manifests()) == 3


def test_a_forced_flow_runs_every_body(world):
    world.run()
    world.ran()
    world.run(force=True)
    assert world.ran() == ALL


def test_transient_failures_are_retried_and_bad_input_is_not(world):
    world.fail.append(ConnectionError("lost"))
    world.run()
    assert world.ran() == ["first", "first", "second", "third"]
    world.fail.append(BadInput("wrong"))
    with pytest.raises(BadInput, match="wrong"):
        world.run(second=SecondConfig(factor=5))
    assert world.ran() == ["second"]


def test_what_ran_without_prefect_is_cached_with_it_and_the_other_way_round(world):
    walk(world.store)
    world.ran()
    world.run()
    assert world.ran() == []
    walk(world.store)
    assert world.ran() == []


def test_a_record_holds_no_place_and_no_pickle(world):
    world.run()
    blobs = [path.read_bytes() for path in Path(world.records).iterdir()]
    assert len(blobs) == 3
    assert not any(str(world.store.root).encode() in blob for blob in blobs)
    assert all(b"raft-manifest-v1" in blob for blob in blobs)


def test_an_error_is_kept_as_text():
    blob = ManifestSerializer().dumps(BadInput("wrong file"))
    assert b"wrong file" in blob
    with pytest.raises(ValueError, match="wrong file"):
        ManifestSerializer().loads(blob)


def test_prefects_lock_is_the_stage_lock(tmp_path):
    store = Store(tmp_path)
    manager = FlockLockManager(lambda key: store.lock(*key.split("-", 1)), silent)
    assert manager.acquire_lock("chunk-k1", "me")
    assert manager.acquire_lock("chunk-k1", "me"), "the holder may ask again"
    assert not manager.acquire_lock("chunk-k1", "you", acquire_timeout=0)
    assert not store.lock("chunk", "k1").acquire(timeout_seconds=0)
    assert manager.is_locked("chunk-k1")
    assert manager.is_lock_holder("chunk-k1", "me")
    assert not manager.wait_for_lock("chunk-k1", timeout=0)
    manager.release_lock("chunk-k1", "me")
    assert manager.wait_for_lock("chunk-k1", timeout=0)
    with pytest.raises(ValueError, match="No lock held"):
        manager.release_lock("chunk-k1", "me")
