"""Scheduling: what is told to Prefect's server, how the server is found, and when a changed corpus is reported."""

import http.server
import json
import os
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from kept_json import checked

from flows.cli.app import invoke
from flows.prefect import server
from flows.retraining import deployment
from tasks.config import load_config
from tasks.runtime.folders import write_json
from tasks.store.manifest import Link
from tasks.store.store import Store

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nSome words about something.\n")
    (tmp_path / "raft.yaml").write_text(yaml.safe_dump({"corpus": ["docs"], "name": "law"}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(project):
    return load_config(project / "raft.yaml")


@pytest.fixture
def answering():
    """Something on a loopback port that answers as a Prefect API does."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *words):
            pass

    made = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/api"
    made.shutdown()
    made.server_close()


def test_without_a_server_it_says_how_to_start_one_and_how_to_do_without(project, capsys):
    assert invoke(["schedule"]) == 2
    told = capsys.readouterr().err
    assert "raft server" in told
    assert "raft retrain" in told


@pytest.mark.slow
def test_a_server_that_answers_is_found_by_its_note_and_a_dead_one_is_not(project, answering):
    store = Store(project / ".raft")
    assert server.running(store) is None
    store.prepare()
    (store.root / server.NOTE).write_text(json.dumps({"url": answering}))
    assert server.running(store) == answering
    (store.root / server.NOTE).write_text(json.dumps({"url": "http://127.0.0.1:9/api"}))
    assert server.running(store) is None


def test_the_server_listens_on_loopback_and_sends_no_telemetry(project, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    started = {}

    def exec_(file, argv, env):
        started.update(argv=argv, env=env, mask=os.umask(0))
        os.umask(started["mask"])

    monkeypatch.setattr(server.os, "execvpe", exec_)
    before = os.umask(0o022)
    try:
        assert invoke(["server", "--port", "4299", "--json"]) == 0
        assert (started["mask"], os.umask(0o022)) == (0o077, 0o022)  # the server writes for its owner alone
    finally:
        os.umask(before)
    checked(["server"], json.loads(capsys.readouterr().out))
    assert started["argv"][1:] == [
        "-P",
        "-m",
        "flows.prefect.server_process",
        str(project / ".raft"),
        *("--host", "127.0.0.1", "--port", "4299"),
    ]
    wanted = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": "4299",
        "PREFECT_HOME": str(project / ".raft" / "prefect"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4299",
    }
    assert wanted.items() <= started["env"].items()
    assert json.loads((project / ".raft" / server.NOTE).read_text()) == {"url": "http://127.0.0.1:4299/api"}


def test_beyond_loopback_it_asks_for_the_same_and_says_what_that_means(project, monkeypatch, capsys):
    started = {}
    monkeypatch.setattr(server.os, "execvpe", lambda file, argv, env: started.update(argv=argv))
    assert invoke(["server", "--port", "4299", "--host", "0.0.0.0", "--name", "raft.example"]) == 0
    assert started["argv"][-6:] == ["--name", "raft.example", "--host", "0.0.0.0", "--port", "4299"]
    told = capsys.readouterr().out
    assert "unencrypted" in told
    kept = (project / ".raft" / server.AUTH).read_text()
    assert kept not in told
    assert json.loads((project / ".raft" / server.NOTE).read_text()) == {"url": "http://127.0.0.1:4299/api"}


def test_the_auth_string_is_kept_unless_others_could_read_it_or_the_user_gives_one(project):
    store = Store(project / ".raft")
    store.prepare()
    path = store.root / server.AUTH
    first = server.auth_string(store)
    assert server.auth_string(store) == first
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    second = server.auth_string(store)
    assert second != first
    assert path.stat().st_mode & 0o777 == 0o600
    assert server.auth_string(store, "me:mine") == "me:mine"
    assert server.auth_string(store) == "me:mine"
    path.unlink()
    path.symlink_to(project / "elsewhere")
    assert server.auth_string(store) not in (first, second, "me:mine")
    assert not path.is_symlink()


def test_our_own_auth_string_goes_to_our_own_server_and_to_no_other(project, answering, monkeypatch):
    from flows.prefect.environment import QUIET, settle

    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", *QUIET):
        monkeypatch.setenv(name, "")  # so that it is taken back afterwards
        monkeypatch.delenv(name)
    store = Store(project / ".raft")
    store.prepare()
    kept = server.auth_string(store)
    environment = server.os.environ
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api/accounts/1/workspaces/2")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "of another server")
    (store.root / server.NOTE).write_text(json.dumps({"url": answering}))
    settle(store)
    assert environment["PREFECT_API_AUTH_STRING"] == "of another server"
    monkeypatch.delenv("PREFECT_API_URL")
    settle(store)
    assert (environment["PREFECT_API_URL"], environment["PREFECT_API_AUTH_STRING"]) == (answering, kept)


def test_a_night_that_prefect_ends_because_its_server_is_gone_is_gone_on_with(project, monkeypatch):
    """It cannot renew the run's place among the deployment's runs, and throws into whatever is at work."""
    import asyncio
    from types import SimpleNamespace

    from flows.nightly import nightly
    from flows.retraining import served
    from tasks.prefect import link as prefect_link

    asked, left = [], []

    def night(run, *, direct=False):
        asked.append(direct)
        if not direct:
            raise asyncio.CancelledError
        return SimpleNamespace(result="nothing", why="", reason="", version=None)

    monkeypatch.setattr(served, "retrain", night)
    monkeypatch.setattr(served, "flow_run_now", lambda: SimpleNamespace(deployment_id=None))
    monkeypatch.setattr(prefect_link, "still_there", lambda: False)
    monkeypatch.setattr(prefect_link, "leave", left.append)
    try:
        nightly.fn(str(project / "raft.yaml"))
        assert (asked, left) == ([False, True], [0])
        monkeypatch.setattr(prefect_link, "still_there", lambda: True)
        with pytest.raises(asyncio.CancelledError):
            nightly.fn(str(project / "raft.yaml"))
    finally:
        prefect_link._lost.clear()


@pytest.mark.slow
def test_a_port_in_use_is_bad_input(project, answering, capsys):
    port = answering.split(":")[2].removesuffix("/api")
    assert invoke(["server", "--port", port]) == 2
    assert "is in use" in capsys.readouterr().err


@pytest.mark.parametrize(("collision", "strategy"), [("enqueue", "ENQUEUE"), ("cancel", "CANCEL_NEW")])
def test_the_deployment_has_the_clock_the_event_and_one_run_at_a_time(project, config, collision, strategy):
    from flows.nightly import nightly

    made = deployment.deployment(
        nightly,
        config,
        project / "raft.yaml",
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        collision=collision,
    )
    assert (made.flow_name, made.name) == ("raft-nightly", "law")
    assert made.entrypoint == "flows.nightly.nightly"
    assert made.parameters == {"config": str(project / "raft.yaml"), "overrides": []}, (
        "the server stores and shows them"
    )
    (when,) = made.schedules
    assert (when.schedule.cron, when.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
    (trigger,) = made.triggers
    assert trigger.expect == {"raft.corpus.changed"}
    assert trigger.match.model_dump() == {"prefect.resource.id": "raft.corpus.law"}
    assert (made.concurrency_limit, made.concurrency_options.collision_strategy) == (1, strategy)


def test_the_file_for_work_pools_says_the_same():
    made = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]
    assert made["entrypoint"] == "flows.nightly.nightly"
    assert made["triggers"][0]["expect"] == [deployment.CHANGED]
    assert made["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    environment = made["work_pool"]["job_variables"]["env"]
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(deployment.HEARTBEAT_SECONDS)


@pytest.mark.parametrize("entrypoint", ["flows.nightly.nightly", f"{ROOT / 'flows/nightly.py'}:nightly"])
def test_a_deployment_that_somebody_has_finds_its_flow(entrypoint):
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint(entrypoint)
    assert flow.name == "raft-nightly"
    assert set(flow.parameters.properties) == {"config", "overrides", "because"}
    assert flow.parameters.required == ["config"]


class Enough(Exception):
    """Ends the watching, which has no end of its own."""


def watch(project, config, monkeypatch, between):
    """The digests that are reported while `between` acts after each look."""
    reported = []
    steps = iter(between)

    def pause(seconds):
        step = next(steps, None)
        if step is None:
            raise Enough
        step()

    monkeypatch.setattr(
        "prefect.events.emit_event", lambda event, resource, payload: reported.append(payload["digest"])
    )
    monkeypatch.setattr(time, "sleep", pause)
    with pytest.raises(Enough):
        deployment.watch_corpus(config, Store(project / ".raft"), 1)
    return reported


def nothing():
    pass


def test_a_change_is_reported_once_and_only_after_it_held_still(project, config, monkeypatch):
    file = project / "docs" / "a.md"

    def write(text):
        return lambda: file.write_text(text)

    seen = watch(
        project, config, monkeypatch, [nothing, nothing, write("one"), write("two"), nothing, nothing, nothing]
    )
    assert len(seen) == 2, "the corpus at the start, which no run has seen, and `two`; `one` was still being written"
    assert len(set(seen)) == 2


def test_a_corpus_that_was_ingested_already_is_not_reported(project, config, monkeypatch):
    from tasks.inputs.corpus import snapshot

    store = Store(project / ".raft")
    store.prepare()
    digest = snapshot(config.corpus, store.hashes).digest
    with store.publish("ingest", "0" * 32) as (out, manifest):
        (out / "documents.jsonl").write_text("")
        manifest.ingredients = {"inputs": {"corpus": digest}}
    assert watch(project, config, monkeypatch, [nothing] * 3) == []


def test_a_source_that_is_away_for_a_while_does_not_end_the_watching(project, config, monkeypatch):
    docs, away = project / "docs", project / "away"
    seen = watch(
        project, config, monkeypatch, [nothing, nothing, lambda: docs.rename(away), nothing, lambda: away.rename(docs)]
    )
    assert len(seen) == 1


def test_a_night_is_told_for_the_pages():
    from flows.retraining.pages import summary
    from tasks.adapters.decisions import RetrainDecision

    night = RetrainDecision(
        at="2026-11-22T03:00:00+00:00",
        action="retrain",
        reason="3 documents were edited",
        result="held",
        why="not better than the promoted version",
        change={"edited": 3},
        version=2,
        corpus="c" * 64,
        settings={},
        stages={"train": Link(stage="train", key="a" * 32, digest="d" * 64)},
    )
    text = summary("law", night)
    for words in ("# law: held", "not better than the promoted version", "3 edited", "| version | 2 |", "d" * 12):
        assert words in text


@pytest.mark.slow
def test_what_is_said_on_this_machine_goes_through_no_proxy(project, answering, monkeypatch):
    """The auth string is among it."""
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib keeps the first one it makes, with its proxies
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "intern.example")
    store = Store(project / ".raft")
    store.prepare()
    write_json(store.root / server.NOTE, {"url": answering})
    assert server.running(store) == answering
    assert os.environ["no_proxy"].split(",") == ["intern.example", "localhost", "127.0.0.1", "::1"]
