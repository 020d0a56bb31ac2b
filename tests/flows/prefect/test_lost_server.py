"""Prefect's server is lost under a run: the run does its work to the end and ends, whatever the server does."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from free_port import free_port

from tasks.adapters.decisions import read_decisions
from tasks.store.store import Store

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ENDS = 120  # seconds after which a run hangs


class Between:
    """Passes connections on to a server, until it is told to be one that is gone, that fails, or that never answers."""

    def __init__(self, port: int) -> None:
        self._target, self._kind, self._open = port, "", []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def become(self, kind: str) -> None:
        self._kind = kind
        if kind == "gone":
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if kind != "silent":
            for one in self._open:
                one.close()

    def close(self) -> None:
        self.become("gone" if self._kind != "gone" else "over")

    def _listen(self) -> None:
        while True:
            try:
                one = self._listener.accept()[0]
            except OSError:
                return
            self._open.append(one)
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        if self._kind == "failing":
            one.recv(65536)
            one.sendall(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            one.close()
        elif self._kind != "silent":
            other = socket.create_connection(("127.0.0.1", self._target))
            self._open.append(other)
            for pair in ((one, other), (other, one)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if self._kind == "silent":
                    time.sleep(3600)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()


class Server(NamedTuple):
    process: subprocess.Popen
    port: int
    auth: str


@pytest.fixture(scope="module")
def servers(tmp_path_factory, with_database):
    """Those that this module has started, the one that lives last."""
    started: list[Server] = []
    folder = tmp_path_factory.mktemp("server")
    (folder / ".raft").mkdir(mode=0o700)
    with_database(folder / ".raft" / "prefect")
    yield folder, started
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def server(servers):
    """A server that lives: one for all tests, until one of them has killed it."""
    folder, started = servers
    if not started or started[-1].process.poll() is not None:
        started.append(new_server(folder))
    return started[-1]


def new_server(folder: Path) -> Server:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")}
    port = free_port()
    command = [sys.executable, "-c", "from flows.cli.app import main; main()", "server", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=environment, **quiet)
    from flows.prefect.server import answers

    while not answers(f"http://127.0.0.1:{port}/api"):
        assert process.poll() is None
        time.sleep(0.2)
    return Server(process, port, (folder / ".raft" / "server.auth").read_text())


@pytest.fixture
def start(tmp_path, with_database):
    """Starts the flow and waits until its second stage is at work."""
    processes = []
    with_database(tmp_path / "home")

    def start(*options: str, **settings: str) -> subprocess.Popen:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")}
        environment |= {
            **settings,
            "PYTHONPATH": str(HERE.parents[1] / "tasks"),
            "PREFECT_HOME": str(tmp_path / "home"),
        }
        process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "flow_program.py"),
                *map(str, (tmp_path / "raft", tmp_path / "log", tmp_path / "go")),
                *options,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "started second\n":
                return process
        raise AssertionError("".join(lines))

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def ended(tmp_path) -> Callable[[subprocess.Popen], str]:
    """Lets the second stage go on; returns what the flow said to its end."""

    def end(process: subprocess.Popen) -> str:
        (tmp_path / "go").touch()
        return last_words(process)

    return end


def last_words(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=ENDS)
    for noise in ("Traceback", "ERROR", "Error logging to API"):
        assert noise not in output
    return output


def check_whole(tmp_path: Path, output: str) -> None:
    assert (tmp_path / "log").read_text().split() == ["first", "second", "third"], "every stage is built, and once"
    assert {m.stage for m in Store(tmp_path / "raft").manifests()} == {"first", "second", "third"}
    assert "digest" in output
    assert output.count("Prefect's server was lost") == 1


@pytest.mark.parametrize("kind", [pytest.param("failing", marks=pytest.mark.wide), "silent"])
def test_a_run_finishes_its_work_says_so_in_one_line_and_ends(server, start, ended, tmp_path, kind):
    between = Between(server.port)
    url = f"http://127.0.0.1:{between.port}/api"
    process = start(PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=server.auth)
    between.become(kind)
    output = ended(process)
    between.close()
    assert process.returncode == 0, output
    check_whole(tmp_path, output)


@pytest.mark.wide
def test_a_run_that_fails_says_why_and_not_that_its_server_is_gone(server, start, ended, tmp_path):
    between = Between(server.port)
    url = f"http://127.0.0.1:{between.port}/api"
    process = start("fails", PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=server.auth)
    between.become("gone")
    output = ended(process)
    assert process.returncode == 2, output
    assert "the file is wrong" in output


def test_a_run_whose_server_is_lost_can_be_stopped(server, start, tmp_path):
    between = Between(server.port)
    url = f"http://127.0.0.1:{between.port}/api"
    process = start(PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=server.auth)
    between.become("silent")
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    output = last_words(process)
    assert process.returncode == 75, output
    assert not list((tmp_path / "raft" / "store").glob("*/.*"))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.heavy), signal.SIGSTOP])
def test_an_embedded_server_answers_its_own_run_alone_and_leaves_nothing_behind(start, ended, tmp_path, number):
    """Killed or hanging. Its database may be that of a schedule, with the secrets of notifications."""
    process = start()
    (embedded,) = children_of(process.pid)
    for path in ("flows/filter", "block_documents/filter"):
        assert status_for_a_stranger(embedded, path) == 401
    os.kill(embedded, number)
    output = ended(process)
    assert process.returncode == 0, output
    check_whole(tmp_path, output)
    assert not Path(f"/proc/{embedded}").exists()


def test_an_embedded_server_ends_with_a_run_that_is_killed(start):
    process = start()
    (embedded,) = children_of(process.pid)
    process.kill()
    process.wait()
    until_gone(embedded)


def test_what_follows_a_process_ends_with_it(tmp_path):
    ready = str(tmp_path / "ready")
    follower = f"import time, flows.prefect.embedded as e; e.follow({{}}); open({ready!r}, 'w'); time.sleep(600)"
    owner = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-P', '-c', {follower!r}.format(os.getpid())])\n"
        "print(child.pid, flush=True)\n"
        f"while child.poll() is None and not os.path.exists({ready!r}): time.sleep(0.05)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", owner], stdout=subprocess.PIPE, text=True, timeout=300)
    assert Path(ready).exists()
    until_gone(int(done.stdout))


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + ENDS
    while Path(f"/proc/{pid}").exists() and cmdline(pid):  # one that waits for its parent to look has none
        assert time.monotonic() < deadline
        time.sleep(0.1)


def status_for_a_stranger(embedded: int, path: str) -> int:
    """What an embedded server answers to a request without the auth string."""
    words = cmdline(embedded).split("\0")
    url = f"http://127.0.0.1:{words[words.index('--port') + 1]}/api/{path}"
    request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_with_a_server_that_is_well_nothing_is_said_and_it_has_the_history(server, start, ended, tmp_path):
    url = f"http://127.0.0.1:{server.port}/api"
    process = start("patient", PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=server.auth)
    output = ended(process)
    assert process.returncode == 0, output
    assert "lost" not in output


@pytest.mark.wide
def test_a_server_that_is_killed_is_lost_as_well(server, start, ended, tmp_path):
    process = start(PREFECT_API_URL=f"http://127.0.0.1:{server.port}/api", PREFECT_API_AUTH_STRING=server.auth)
    server.process.kill()
    server.process.wait()
    output = ended(process)
    assert process.returncode == 0, output
    check_whole(tmp_path, output)


@pytest.mark.heavy
def test_a_night_that_a_schedule_started_is_finished_without_its_server(project):
    port = free_port()
    store = Store(project.folder / ".raft")
    processes = [project.start("server", "--port", str(port), stderr=subprocess.DEVNULL)]
    try:
        from flows.prefect.server import answers

        while not answers(f"http://127.0.0.1:{port}/api"):
            time.sleep(0.2)
        log = project.folder / "schedule.log"
        with log.open("wb") as file:
            processes.append(
                project.start("schedule", "--cron", "", "--watch", "1", stdout=file, stderr=subprocess.STDOUT)
            )
        while not store.manifests("embed"):
            assert processes[1].poll() is None, log.read_text()
            time.sleep(0.2)
        (night,) = [pid for pid in children_of(processes[1].pid) if "prefect.engine" in cmdline(pid)]
        processes[0].kill()
        processes[0].wait()
        deadline = time.monotonic() + 10 * ENDS
        while Path(f"/proc/{night}").exists() and "prefect" in cmdline(night):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        assert "Prefect's server was lost" in log.read_text()
        assert [one.result for one in read_decisions(store, "adapter")] == ["held"], log.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({int(child) for task in tasks for child in task.read_text().split()})
