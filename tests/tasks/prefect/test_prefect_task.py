"""Stages as Prefect tasks: Prefect shows what the store decides. One server for all tests of this file."""

import shutil
import time

import fake_stages
import pytest
from fake_stages import FIRST, SECOND, Request, SecondConfig, ThirdConfig, walk

from raft_errors import BadInput
from tasks.build import stage as stage_module
from tasks.build.events import silent
from tasks.build.stage import Stage, run
from tasks.prefect.task import TaskSteps
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
    monkeypatch.setattr(stage_module, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(fake_stages, "WORLD", fake_stages.World(log=tmp_path / "log"))

    class World:
        store = Store(tmp_path / "raft")
        fail = fake_stages.WORLD.fail

        def flow(self, body, force=False):
            """Calls the body with a step in a flow; returns what the server then knows of each task, by its name."""
            from prefect import flow
            from prefect.client.orchestration import get_client
            from prefect.client.schemas.filters import FlowRunFilter
            from prefect.context import FlowRunContext

            ids, begun = [], []

            def recorded(tell):
                return lambda request: (begun.append(request), run(request, self.store, tell, force=force))[1]

            @flow(name="three")
            def three():
                ids.append(FlowRunContext.get().flow_run.id)
                body(TaskSteps(recorded, silent))
                return True

            try:
                three()
            finally:
                with get_client(sync_client=True) as client:
                    for _ in range(100):  # task runs reach the server a moment later
                        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": ids}))
                        if len(runs) >= len(begun) and all(r.state and r.state.is_final() for r in runs):
                            break
                        time.sleep(0.1)
            return {r.name: r for r in runs}

        def run(self, force=False, **configs):
            """Runs the three stages; returns each task's final state name."""
            tasks = self.flow(lambda step: walk(self.store, step=step, **configs), force)
            return {name: task.state.name for name, task in tasks.items()}

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


def test_a_stage_whose_artefact_is_gone_or_altered_runs_again(world):
    world.run()
    world.ran()
    folder = next((world.store.root / "store" / "second").iterdir())
    shutil.rmtree(folder)
    assert world.run() == {"first": "Cached", "second": "Completed", "third": "Cached"}
    assert world.ran() == ["second"]
    (folder / "products.txt").write_text("7")
    assert world.run() == {"first": "Cached", "second": "Completed", "third": "Cached"}
    assert world.ran() == ["second"]


def test_a_flow_fetches_what_another_machine_shared(world, tmp_path):
    from tasks.store.share import Share

    walk(Store(tmp_path / "elsewhere", Share.at(f"file://{tmp_path}/team")))
    world.ran()
    world.store = Store(tmp_path / "here", Share.at(f"file://{tmp_path}/team"))
    assert world.run() == dict.fromkeys(ALL, "Cached")
    assert world.ran() == []
    assert len(world.store.manifests()) == 3


def test_a_forced_flow_runs_every_body(world):
    world.run()
    world.ran()
    assert world.run(force=True) == dict.fromkeys(ALL, "Completed")
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


def sums(bench, config, left, right, extra=None):
    products = [given.path("products.txt").read_text() for given in (left, right)]
    (bench.out / "sum.txt").write_text("\n".join(products))
    return fake_stages.Outcome("two")


def test_the_edges_in_the_pages_are_the_flows_own_and_a_stage_may_stand_twice(world):
    """The second stage stands twice under two names; the third reads both results, and one made before the flow."""
    earlier = walk(world.store)["third"]

    def body(step):
        first = step(Request(FIRST, fake_stages.FirstConfig(), {"corpus": fake_stages.Source()}))
        once = step(Request(SECOND, SecondConfig(), {"first": first}))
        again = step(Request(SECOND, SecondConfig(factor=3), {"first": first}, call="second_again"))
        step(Request(Stage("sums", ThirdConfig, sums), ThirdConfig(), {"left": once, "right": again, "extra": earlier}))

    tasks = world.flow(body)
    names = {task.id: name for name, task in tasks.items()}
    edges = {n: {p: [names[i.id] for i in given] for p, given in t.task_inputs.items()} for n, t in tasks.items()}
    assert edges == {
        "first": {"corpus": []},
        "second": {"first": ["first"]},
        "second_again": {"first": ["first"]},
        "sums": {"left": ["second"], "right": ["second_again"], "extra": []},
    }
    assert len({task.task_key for task in tasks.values()}) == 4
    assert {n: t.task_key.rpartition("-")[0] for n, t in tasks.items()} == {n: n for n in tasks}
