"""Killed and interrupted runs go on where they were and end with the bytes of an undisturbed one."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from free_port import free_port
from prefect.exceptions import TerminationSignal

pytestmark = pytest.mark.slow

STAGES = ["ingest", "chunk", "embed", "index", "questions", "records", "train", "export", "evaluate"]


def wait_for(process, *words):
    """Reads the run's messages until one has all the words; returns what was said."""
    said = []
    for line in process.stderr:
        said.append(line)
        if all(word in line for word in words):
            return "".join(said)
    raise AssertionError("".join(said))


def contents(project, stage) -> dict[str, bytes]:
    """Every file that a stage published, but the manifest (which tells how long it took)."""
    row = next(row for row in project.json(stage, "--no-prefect")["stages"] if row["stage"] == stage)
    folder = Path(row["folder"])
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.heavy  # the longest of them, the training, is killed below; `benchmarks/chaos.py` kills fifty times
def test_kill_9_in_every_stage_and_the_adapter_comes_out_byte_identical(project, finished):
    undisturbed, _ = finished
    # the embeddings: a process that makes some loads its libraries for longer than all else takes
    shutil.copytree(undisturbed.folder / ".raft" / "cache", project.folder / ".raft" / "cache")
    for number, stage in enumerate(STAGES):
        process = project.start("run", "--no-prefect")
        said = wait_for(process, stage, "…")
        process.kill()
        process.wait()
        for earlier in STAGES[: max(0, number - 1)]:
            assert f"✓ {earlier} (cached)" in said, "a finished stage is not done again"
    project.raft("run", "--no-prefect")
    for stage in ("records", "train", "export", "evaluate"):
        assert contents(project, stage) == contents(undisturbed, stage)
    assert not list((project.folder / ".raft" / "store").glob("*/.*"))
    assert not list((project.folder / ".raft" / "work").glob("*/*"))


@pytest.fixture
def untrained(warm):
    """A project with everything that the training reads."""
    for stage in ("train", "export", "evaluate"):
        shutil.rmtree(warm.folder / ".raft" / "store" / stage)
    return warm


def test_a_killed_training_goes_on_from_its_checkpoint_and_leaves_no_orphan(untrained, finished):
    project, (undisturbed, _) = untrained, finished
    project.values["train"]["checkpoint_every_steps"] = 1
    project.write()
    process = project.start("train", "--no-prefect")
    wait_for(process, "train", "…")
    work = project.folder / ".raft" / "work" / "train"
    while not list(work.glob("*/checkpoints/[0-9]*")):
        assert process.poll() is None
        time.sleep(0.05)
    (trainer,) = children_of(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while not gone(trainer):
        assert time.monotonic() < deadline, "the trainer outlives its supervisor"
        time.sleep(0.1)
    assert contents(project, "export") == contents(undisturbed, "export")


@pytest.mark.parametrize(
    ("number", "prefect"),
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, True),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.wide),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.wide),
    ],
)
def test_an_interruption_saves_the_training_and_says_how_to_go_on(untrained, number, prefect, with_database):
    project = untrained
    if prefect and number == signal.SIGINT:
        pytest.skip("the same path as SIGTERM, which is the harder one under Prefect")
    project.values["train"] |= {"checkpoint_every_steps": 1000, "epochs": 1000, "max_steps": None}
    project.write()
    if prefect:
        with_database(project.prefect_home)
    process = project.start("train", *([] if prefect else ["--no-prefect"]))
    wait_for(process, "train", "…")
    metrics = project.folder / ".raft" / "work" / "train"
    while not list(metrics.glob("*/checkpoints")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    for _ in range(20):  # an impatient supervisor, or a person at the keyboard
        process.send_signal(number)
        time.sleep(0.05)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert not list((project.folder / ".raft" / "store").glob("*/.*"))


@pytest.mark.parametrize("lost", [ConnectionError("no server"), RuntimeError("Failed to reach API at http://x")])
@pytest.mark.parametrize("stop", [TerminationSignal(signal.SIGTERM), KeyboardInterrupt()])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_run_stopped_while_its_server_is_gone_was_interrupted_and_did_not_fail(lost, stop, grouped):
    """Prefect reports the stop to its server; that the server is gone must not hide what the run was told."""
    from flows.prefect.flow import was_stopped

    def stopped():
        try:
            raise stop
        except BaseException:
            try:
                raise lost
            except Exception as error:
                raise ExceptionGroup("reporting", [error]) if grouped else error  # noqa: B904 - as Prefect does

    with pytest.raises((type(lost), ExceptionGroup)) as raised:
        stopped()
    assert was_stopped(raised.value)
    assert not was_stopped(ExceptionGroup("reporting", [RuntimeError("Failed to reach API at http://x")]))


def test_a_server_that_cannot_be_reached_is_a_failure(project, monkeypatch):
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    done = project.process("ingest")
    assert done.returncode == 1
    assert "Prefect's server cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_at_once_build_everything_once(project):
    one, two = project.start("records", "--no-prefect"), project.start("records", "--no-prefect")
    said = one.communicate(timeout=600)[1], two.communicate(timeout=600)[1]
    assert (one.returncode, two.returncode) == (0, 0), said
    for stage in STAGES[:6]:
        assert sum(f"{stage} …" in text for text in said) == 1, f"{stage} was built twice"
    assert any("is being built by process" in text for text in said)
