"""What answers at PREFECT_API_URL is another version, wants an auth string, or is no Prefect: one message says so."""

import http.server
import json
import os
import subprocess
import sys
import threading

import prefect
import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nSome words about something.\n")
    (tmp_path / "raft.yaml").write_text(yaml.safe_dump({"corpus": ["docs"]}))
    return tmp_path


@pytest.fixture
def ask(project):
    """Runs `raft` against a server that answers a path's end with a status and a body; what it ended with and said."""
    servers = []

    def ask(answers, *arguments):
        class Other(http.server.BaseHTTPRequestHandler):
            def answer(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                path = self.path.partition("?")[0].rstrip("/")
                rows = (row for end, row in answers.items() if path.endswith(end))
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

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")} | {"PREFECT_API_URL": url}
        command = [sys.executable, "-c", "from flows.cli.app import main; main()", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr
        return done

    yield ask
    for server in servers:
        server.shutdown()
        server.server_close()


REFUSED = (422, {"exception_detail": [{"type": "extra_forbidden", "loc": ["body", "concurrency_options"]}]})
SCHEDULE = ("schedule", "--cron", "", "--watch", "0")
HEALTH = {"/health": (200, True)}


@pytest.mark.parametrize("arguments", [SCHEDULE, ("ingest",)])
@pytest.mark.parametrize(("version", "do"), [("3.0.4", "where the server runs"), ("4.1.0", "here")])
def test_a_server_of_another_version_is_named_with_ours(ask, version, do, arguments):
    done = ask({**HEALTH, "/version": (200, json.dumps(version)), "/flows": REFUSED}, *arguments)
    assert done.returncode == 2
    assert f"version {version}" in done.stderr
    assert f"version {prefect.__version__}" in done.stderr
    assert f"Do: upgrade Prefect {do}" in done.stderr.replace(f"to {prefect.__version__} where", "where")


@pytest.mark.parametrize("arguments", [SCHEDULE, ("ingest",)])
def test_what_is_no_prefect_at_all_is_said_to_be_none(ask, arguments):
    done = ask({"": (200, "<html>Welcome</html>")}, *arguments)
    assert done.returncode == 2
    assert "is no Prefect server" in done.stderr


def test_a_server_that_asks_for_an_auth_string_is_said_to_do_so(ask):
    done = ask({**HEALTH, "": (401, {"exception_message": "Unauthorized"})}, "ingest")
    assert done.returncode == 2
    assert "PREFECT_API_AUTH_STRING" in done.stderr
