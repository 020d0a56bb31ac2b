"""A foreign page, a program without the auth string and a run with forbidden parameters meet a real `raft server`."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from free_port import free_port

pytestmark = pytest.mark.slow

RAFT = [sys.executable, "-P", "-c", "from flows.cli.app import main; main()"]
QUICK = {  # Prefect would look for new runs every 10 s, and try a run that waits for another one again after 30 s
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
}


class Served(NamedTuple):
    """A project with a server of its own."""

    folder: Path
    port: int
    environment: dict[str, str]

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """Status and body of a request as `urllib` sends it, with `headers` (underscores for hyphens) over its own."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, given)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def auth(self) -> str:
        import base64

        return "Basic " + base64.b64encode((self.folder / ".raft" / "server.auth").read_bytes()).decode()

    def start(self, *arguments: str) -> subprocess.Popen:
        log = (self.folder / f"{arguments[0]}.log").open("ab")
        return subprocess.Popen(
            [*RAFT, *arguments], cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
        )

    def said(self, verb: str) -> str:
        return (self.folder / f"{verb}.log").read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text("# A\n\nSome words about something.\n")
    (folder / "raft.yaml").write_text(yaml.safe_dump({"corpus": ["docs"], "name": "law"}))
    port = free_port()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")} | QUICK
    service = Served(folder, port, environment)
    server = service.start("server", "--port", str(port))
    try:
        answers(service, server)
        yield service
    finally:
        server.terminate()
        server.wait()


def answers(service: Served, server: subprocess.Popen) -> None:
    while True:
        assert server.poll() is None, service.said("server")
        try:
            if service.ask("/api/health")[0] == 200:
                return
        except OSError:
            time.sleep(0.2)


JSON = {"Content_Type": "application/json"}
FLOWS = "/api/flows/filter"


def test_without_the_auth_string_nothing_is_told_and_nothing_done(served):
    for path in (FLOWS, "/api/block_documents/filter", "/api/deployments/filter", "/api/admin/settings"):
        assert served.ask(path, None if "admin" in path else {}, **JSON)[0] == 401
    assert served.ask(FLOWS, {}, **JSON, Authorization="Basic cmFmdDp4")[0] == 401
    assert served.ask(FLOWS, {}, **JSON, Authorization=served.auth)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8888", "Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Content_Type": "text/plain"}, 415),
    ],
)
def test_a_foreign_page_is_turned_away_even_where_it_knows_the_auth_string(served, headers, status):
    assert served.ask(FLOWS, b"{}", Authorization=served.auth, **{**JSON, **headers})[0] == status


def test_its_own_pages_are_served_under_each_of_its_names_and_call_it_by_that(served):
    for host in (f"127.0.0.1:{served.port}", f"localhost:{served.port}"):
        status, words = served.ask("/ui-settings", Host=host)
        assert (status, json.loads(words)["api_url"], json.loads(words)["auth"]) == (200, f"http://{host}/api", "BASIC")
        assert served.ask(FLOWS, {}, **JSON, Authorization=served.auth, Host=host, Origin=f"http://{host}")[0] == 200
    assert served.ask("/")[0] == 200


def test_the_auth_string_is_its_owners_alone_and_nobody_prints_it(served):
    path = served.folder / ".raft" / "server.auth"
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in served.said("server").replace("\n", "")
    assert path.read_text() not in served.said("server")


def test_our_own_commands_know_it_and_no_parameter_log_or_manifest_holds_it(served):
    done = subprocess.run([*RAFT, "ingest", "--json"], cwd=served.folder, env=served.environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    _, words = served.ask("/api/flow_runs/filter", {}, **JSON, Authorization=served.auth)
    (run,) = json.loads(words)
    assert run["state_type"] == "COMPLETED"
    assert served.auth not in words
    secret = (served.folder / ".raft" / "server.auth").read_text()
    assert secret not in words
    holders = [p for p in (served.folder / ".raft").rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    assert holders == [served.folder / ".raft" / "server.auth"]


def test_bad_input_is_one_message_under_prefect_too(served):
    (served.folder / "broken").mkdir()
    (served.folder / "broken" / "b.txt").write_bytes(b"")
    (served.folder / "broken.yaml").write_text(yaml.safe_dump({"corpus": ["broken"]}))
    command = [*RAFT, "ingest", "broken.yaml"]
    done = subprocess.run(command, cwd=served.folder, env=served.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("ocument with text") == 1


@pytest.mark.wide
def test_a_schedules_run_refuses_a_command_and_another_configuration_by_name(served):
    """The run was made with the right auth string: the flow is what refuses it."""
    deed = served.folder / "deed"
    (served.folder / "other.yaml").write_text(yaml.safe_dump({"retrain": {"smoke_command": f"touch {deed}"}}))
    schedule = served.start("schedule", "--cron", "", "--watch", "0", "--notify", "https://hooks.example/secret-path")
    try:
        while "Serving" not in served.said("schedule"):
            assert schedule.poll() is None, served.said("schedule")
            time.sleep(0.2)
        _, words = served.ask("/api/block_documents/filter", {"include_secrets": True}, **JSON)
        assert "secret-path" not in words
        _, words = served.ask("/api/deployments/name/raft-nightly/law", Authorization=served.auth)
        make = f"/api/deployments/{json.loads(words)['id']}/create_flow_run"
        wanted = {
            "retrain.smoke_command": {"overrides": [f"retrain.smoke_command=touch {deed}"]},
            "config": {"config": str(served.folder / "other.yaml")},
        }
        runs = {}
        for name, parameters in wanted.items():
            body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
            status = 503  # what Prefect answers while its database is busy; its own clients ask again
            while status == 503:
                status, words = served.ask(make, body, **JSON, Authorization=served.auth)
            assert status in (200, 201), words
            runs[name] = json.loads(words)["id"]
        for name, run in runs.items():
            state = ended(served, schedule, run)
            assert state["type"] == "FAILED"
            assert name in state["message"]
        assert not deed.exists()
    finally:
        schedule.terminate()
        schedule.wait()


def ended(served: Served, schedule: subprocess.Popen, run: str) -> dict:
    while True:
        assert schedule.poll() is None, served.said("schedule")
        state = json.loads(served.ask(f"/api/flow_runs/{run}", Authorization=served.auth)[1])["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        time.sleep(0.5)
