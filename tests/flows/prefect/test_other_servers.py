"""What answers at PREFECT_API_URL is another version, wants an auth string, or is no Prefect: one message says so."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from typing import NamedTuple

import prefect
import pytest
import yaml

from flows.prefect.environment import QUIET
from flows.prefect.errors import what_it_means

pytestmark = pytest.mark.slow

REFUSED = (422, {"exception_detail": [{"type": "extra_forbidden", "loc": ["body", "concurrency_options"]}]})
HEALTH = {"/health": (200, True)}
SERVERS = {
    "3.0.4": {**HEALTH, "/version": (200, json.dumps("3.0.4")), "/flows": REFUSED},
    "4.1.0": {**HEALTH, "/version": (200, json.dumps("4.1.0")), "/flows": REFUSED},
    "no Prefect": {"": (200, "<html>Welcome</html>")},
    "closed": {**HEALTH, "": (401, {"exception_message": "Unauthorized"})},
}
"""What each server answers (status, body) to a path's end; to all else it says that it is not found."""
VERBS = {"schedule": ["schedule", "--cron", "", "--watch", "0"], "ingest": ["ingest"]}
PROGRAM = """
import contextlib, io, json, sys, urllib.request
from flows.cli.app import invoke

for server, arguments in json.loads(sys.argv[2]):
    urllib.request.urlopen(sys.argv[1] + "/become/" + urllib.request.quote(server)).close()
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = invoke(arguments)
    print(json.dumps([code, errors.getvalue()]), flush=True)
"""


class Ending(NamedTuple):
    """How a `raft` command ended, and what it said."""

    code: int
    words: str


class Other(http.server.BaseHTTPRequestHandler):
    """The server that it was last told to be."""

    kind = ""

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0].rstrip("/")
        if path.startswith("/become/"):
            Other.kind = urllib.parse.unquote(path.removeprefix("/become/"))
            status, body = 200, ""
        else:
            rows = (row for end, row in SERVERS[Other.kind].items() if path.endswith(end))
            status, body = next(rows, (404, {"detail": "Not Found"}))
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_PATCH = answer

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def endings(tmp_path_factory) -> dict[tuple[str, str], Ending]:
    """By server and verb. One process goes through all of them: it loads Prefect for longer than a verb takes."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text("# A\n\nSome words about something.\n")
    (folder / "raft.yaml").write_text(yaml.safe_dump({"corpus": ["docs"]}))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    cases = [(kind, verb) for kind in SERVERS for verb in VERBS]
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")}
    environment["PREFECT_API_URL"] = f"{url}/api"
    calls = json.dumps([(kind, VERBS[verb]) for kind, verb in cases])
    command = [sys.executable, "-P", "-c", PROGRAM, url, calls]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    server.shutdown()
    server.server_close()
    assert "Traceback" not in done.stderr
    return {case: Ending(*json.loads(line)) for case, line in zip(cases, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("version", "do"), [("3.0.4", "where the server runs"), ("4.1.0", "here")])
def test_a_server_of_another_version_is_named_with_ours(endings, version, do, verb):
    code, words = endings[version, verb]
    assert code == 2
    assert f"version {version}" in words
    assert f"version {prefect.__version__}" in words
    assert f"Do: upgrade Prefect {do}" in words.replace(f"to {prefect.__version__} where", "where")


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_prefect_at_all_is_said_to_be_none(endings, verb):
    code, words = endings["no Prefect", verb]
    assert code == 2
    assert "is no Prefect server" in words


@pytest.mark.parametrize("verb", VERBS)
def test_a_server_that_asks_for_an_auth_string_is_said_to_do_so(endings, verb):
    code, words = endings["closed", verb]
    assert code == 2
    assert "PREFECT_API_AUTH_STRING" in words


def test_no_message_is_a_traceback(endings):
    assert not [case for case, ending in endings.items() if "Traceback" in ending.words]


def test_an_embedded_server_that_is_too_slow_to_start_is_no_matter_of_an_address():
    late = RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")  # Prefect's words
    why = what_it_means(late, None)
    assert "embedded server cannot be reached (Timed out" in why.what
    assert "PREFECT_API_URL" not in str(why)
    assert "--no-prefect" in why.do
    assert any(variable in why.do for variable in QUIET), "the one whose value is ours"
    assert (
        "unset PREFECT_API_URL" in what_it_means(RuntimeError("Failed to reach API at http://gone"), "http://gone").do
    )
