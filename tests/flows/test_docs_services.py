"""`raft serve` as a service, as docs/serving.md has it: systemd takes the unit, and its command does what is said."""

import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy
import pytest
from doc_blocks import ROOT, Block, blocks

from raft_errors import BadInput, Interrupted

NOBODY = 12345
"""A user id that no system knows."""
PAGE = [block for block in blocks() if block.page.name == "serving.md"]


def block_with(words: str) -> Block:
    (block,) = (block for block in PAGE if words in block.text)
    return block


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit that the page's lines write, in a project and with a `raft` whose folders have spaces in their names."""
    home, project, programs = tmp_path / "home", tmp_path / "my project", tmp_path / "my programs"
    for folder in (home, project, programs):
        folder.mkdir()
    program = programs / "raft"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m flows.cli "$@"\n')
    program.chmod(0o755)
    lines = block_with("systemd").text
    typed, _, enabled = lines.rpartition("systemctl")
    assert enabled.split() == ["--user", "enable", "--now", "raft"]
    environment = {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", typed], cwd=project, env=environment, check=True)
    return home / ".config" / "systemd" / "user" / "raft.service"


def settings(unit: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line)


def test_systemd_takes_the_unit(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    command = ["systemd-analyze", "--user", "verify", str(unit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
def test_the_unit_s_command_says_what_is_missing_and_is_not_tried_again(unit, tmp_path):
    values = settings(unit)
    bare = {"HOME": str(tmp_path / "home"), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # as systemd's
    bare |= {"PYTHONPATH": str(ROOT)}  # an installed `raft` finds its packages by itself
    command = shlex.split(values["ExecStart"])
    done = subprocess.run(
        command, cwd=values["WorkingDirectory"], env=bare, capture_output=True, text=True, timeout=600
    )
    assert "raft.yaml" in done.stderr
    assert done.returncode == BadInput.exit_code == int(values["RestartPreventExitStatus"])
    assert int(values["SuccessExitStatus"]) == Interrupted.exit_code


def test_a_stop_waits_for_the_longest_request(unit):
    from flows.cli.verbs.serve import serve

    deadline = inspect.signature(serve).parameters["deadline"].default
    options = shlex.split(block_with("podman").text.replace("\\\n", " "))
    assert int(settings(unit)["TimeoutStopSec"]) > deadline
    assert int(options[options.index("--stop-timeout") + 1]) > deadline


def test_the_container_writes_where_the_image_has_volumes():
    options = shlex.split(block_with("podman").text.replace("\\\n", " "))
    mounted = [options[place + 1].rpartition(":")[2] for place, word in enumerate(options) if word == "-v"]
    (volumes,) = re.findall(r"^VOLUME (.+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert mounted == volumes.split()
    assert options[options.index("-p") + 1].endswith(":8000"), "the port that `raft serve` has by itself"


def in_a_container(root: Path, work: Path, cache: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """What the image's entry point does with the arguments: as a user without a name, on a root that is read-only, with
    a /tmp from which nothing can be executed and the environment of the Containerfile alone. This system's files stand
    in for those of the image."""
    image = {
        "/usr": "usr",
        "/etc": "etc",
        sys.base_prefix: sys.base_prefix.strip("/"),
        str(ROOT): "opt/code",
        str(Path(numpy.__file__).parents[1]): "opt/packages",
    }
    for folder in (*image.values(), "dev", "proc", "tmp", "work", "cache"):
        (root / folder).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(os.readlink(f"/{name}"))
    for folder in (work, cache):
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
    bound = [(here, root / there) for here, there in image.items()]
    script = [
        f"mount --bind {root} {root}",
        *(f"mount --bind {here} {there}; mount -o remount,ro,bind {there}" for here, there in bound),
        f"mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc",
        f"mount --bind {work} {root}/work; mount --bind {cache} {root}/cache",
        f"mount -t tmpfs -o noexec,nosuid,nodev tmpfs {root}/tmp",
        f"mount -o remount,ro,bind {root}",
    ]
    program = "import sys; sys.argv[0] = 'raft'; from raft_command import main; main()"
    inside = shlex.join([f"{sys.base_prefix}/bin/python3", "-c", program, *arguments])
    inside = f"cd /work; touch /opt/x 2>/dev/null && exit 3; exec {inside}"
    script.append(f"exec chroot --userspec={NOBODY}:{NOBODY} {root} /bin/sh -c {shlex.quote(inside)}")
    part = (ROOT / "Containerfile").read_text().rpartition("ENV ")[2].partition("RUN ")[0]
    variables = dict(re.findall(r"^ *([A-Z_]+)=([^\s\\]+)", part, re.MULTILINE))
    variables |= {"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONPATH": "/opt/code:/opt/packages"}
    command = ["unshare", "--mount", "sh", "-ec", "\n".join(script)]
    return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.heavy  # the server itself: tests/flows/test_serve.py
def test_the_container_s_command_serves_whoever_has_a_key_until_it_is_stopped(warm, domain, tmp_path):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    work, cache, root = tmp_path / "own", tmp_path / "cache", tmp_path / "root"
    cache.mkdir()
    shutil.copytree(domain, work, ignore=shutil.ignore_patterns("cache"))
    warm.folder.joinpath(".raft").rename(work / ".raft")
    models = {"base": "./base", "embedder": "./embedder"}
    values = {**warm.values, "corpus": ["./docs"], "questions": {"file": "./questions.jsonl"}, "models": models}
    (work / "raft.yaml").write_text(json.dumps(values))  # JSON is YAML
    key = "0123456789abcdef"
    (work / "keys.txt").write_text(f"{key}\n")
    options = shlex.split(block_with("podman").text.replace("\\\n", " ").replace("$(hostname)", "my-host"))
    arguments = [*options[options.index("jora-raft") + 1 :], "--port", "0", "--json", "--context", "1024"]
    process = in_a_container(root, work, cache, arguments)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline() or "{}")
        assert ready, process.communicate()
        url = ready["url"].replace("0.0.0.0", "127.0.0.1")
        for headers, status in (
            ({}, 401),
            ({"Authorization": f"Bearer {key}"}, 200),
            ({"Authorization": f"Bearer {key}", "Host": "my-host:8000"}, 200),
            ({"Authorization": f"Bearer {key}", "Host": "other-host:8000"}, 400),
        ):
            assert httpx.get(f"{url}/models", headers=headers, timeout=60).status_code == status, headers
        question = [{"role": "user", "content": "What is the town of Elm known for?"}]
        body = {"model": ready["models"][1], "messages": question, "max_tokens": 4}
        answer = httpx.post(
            f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=600
        )
        assert answer.status_code == 200, answer.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
