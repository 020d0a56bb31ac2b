"""The quick benchmarks: each says what it prints, and the runner passes nothing that is missing, missed or unsaid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
from goals import at, declaration, missed, missing
from run_quick import lacks, run, run_again, run_all, scripts, starts

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = """
import json, sys
KEYS = "figure rows/*/rate"
GOALS = {"rows/*/rate": ("<=", 0.05)}
if __name__ == "__main__":
    assert sys.argv[1:] == ["--quick", "--json"]
    print("some words")
"""
GOOD = "    print(json.dumps({'figure': 1, 'rows': [{'rate': 0.05}, {'rate': 0}]}))\n"


@pytest.fixture
def outcome(tmp_path):
    """What the runner says of a script that ends with these lines."""

    def judge(ending: str, limit_seconds: float = 60) -> tuple[str, str]:
        path = tmp_path / "fake.py"
        path.write_text(SCRIPT + ending)
        result = run(path, declaration(path), limit_seconds)
        return result.state, result.why

    return judge


def test_a_script_that_prints_its_keys_and_reaches_its_goals_is_ok(outcome):
    assert outcome(GOOD) == ("ok", "")


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        (GOOD + "    sys.exit(1)\n", "exit code 1"),
        (GOOD.replace("print", "print('goals missed: speed'), print") + "    sys.exit(1)\n", "goals missed: speed"),
        (GOOD + "    print('a last word')\n", "the last line is no JSON object"),
        ("    print([1])\n", "the last line is no JSON object"),
        (GOOD.replace("'figure': 1, ", ""), "missing in its JSON object: figure"),
        (GOOD.replace("'rate': 0}", "'speed': 0}"), "missing in its JSON object: rows/*/rate"),
        (GOOD.replace("'rate': 0}", "'rate': 0.06}"), "rows/*/rate is 0.06, the goal is <= 0.05"),
        (GOOD.replace("'rate': 0}", "'rate': None}"), "rows/*/rate is None, the goal is <= 0.05"),
    ],
)
def test_what_is_wrong_makes_it_fail_and_is_said(outcome, ending, why):
    state, told = outcome(ending)
    assert state == "failed"
    assert why in told


def test_a_script_that_fails_may_be_run_once_more_and_why_is_kept(tmp_path):
    path = tmp_path / "fake.py"
    mark = tmp_path / "mark"
    first = (
        f"    from pathlib import Path\n    mark = Path({str(mark)!r})\n    new = not mark.exists()\n    mark.touch()\n"
    )
    path.write_text(SCRIPT + first + GOOD + "    sys.exit('goals missed: speed' if new else 0)\n")
    result = run_again(path, declaration(path), 60, tries=2)
    assert (result.state, result.why) == ("ok", "before: exit code 1: goals missed: speed")
    mark.unlink()
    assert run_again(path, declaration(path), 60, tries=1).state == "failed"
    path.write_text(SCRIPT + "    sys.exit('broken')\n")
    result = run_again(path, declaration(path), 60, tries=2)
    assert (result.state, result.why) == ("failed", "exit code 1: broken; before: exit code 1: broken")


@pytest.mark.slow
def test_a_script_that_hangs_is_ended_with_its_children(outcome):
    child = (
        "    import os, subprocess, time\n    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
    )
    assert outcome(child + "    time.sleep(99)\n", limit_seconds=2) == ("failed", "took more than 2 s")


def meeting(folder: Path, names: tuple[str, ...], seconds: float, before: str = "") -> dict[str, Path]:
    """Scripts that are good if they have all begun within these seconds."""
    marks = [str(folder / f"{name}.mark") for name in names]
    for name, mark in zip(names, marks):
        wait = (
            f"    import time\n    from pathlib import Path\n    Path({mark!r}).touch()\n"
            f"    until = time.monotonic() + {seconds}\n"
            f"    while not all(Path(mark).exists() for mark in {marks!r}):\n"
            "        time.sleep(0.02)\n        assert time.monotonic() < until, 'alone'\n"
        )
        (folder / f"{name}.py").write_text(SCRIPT + wait + (before if name == names[0] else "") + GOOD)
    return {name: folder / f"{name}.py" for name in names}


def test_scripts_run_side_by_side_and_each_has_its_own_cpu_time(tmp_path):
    work = "    while time.process_time() < 1.0:\n        pass\n"
    results = dict(run_all(meeting(tmp_path, ("busy", "idle"), 300, work), tmp_path, 400, tries=1, at_once=2))
    assert {result.state for result in results.values()} == {"ok"}, results
    assert results["busy"].cpu_seconds >= 1.0 > results["idle"].cpu_seconds


def test_one_at_a_time_is_the_default_of_a_measurement(tmp_path):
    results = dict(run_all(meeting(tmp_path, ("first", "second"), 0.5), tmp_path, 100, tries=1, at_once=1))
    assert (results["first"].state, results["second"].state) == ("failed", "ok")
    assert "alone" in results["first"].why


def test_what_cannot_run_here_is_skipped_with_the_reason(tmp_path):
    path = tmp_path / "fake.py"
    path.write_text('NEEDS = "no_such_package"\n' + SCRIPT + GOOD)
    [(_, result)] = run_all({"fake": path}, tmp_path, 60, tries=2, at_once=1)
    assert (result.state, result.why) == ("skipped", "the Python package no_such_package is not installed")


def test_who_stops_the_runner_stops_what_it_started(tmp_path):
    chosen = meeting(tmp_path, ("short", "long"), 300)
    pid = tmp_path / "pid"
    sleeping = f"    import os\n    Path({str(pid)!r}).write_text(str(os.getpid()))\n    time.sleep(900)\n"
    waiting = f"    while not Path({str(pid)!r}).exists():\n        time.sleep(0.02)\n"
    for name, before in (("long", sleeping), ("short", waiting)):
        chosen[name].write_text(chosen[name].read_text().replace(GOOD, before + GOOD))
    results = run_all(chosen, tmp_path, 900, tries=2, at_once=2)
    assert next(results)[0] == "short"
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_script_that_declares_nothing_fails(tmp_path):
    path = tmp_path / "fake.py"
    path.write_text("print('{}')\n")
    assert run(path, declaration(path), 60).why == "the script declares no KEYS"


def test_paths_lead_through_every_key_and_row():
    figures = {"sets": {"a": {"rate": 1}, "b": {"rate": 2}}, "rows": [], "none": None}
    assert at(figures, "sets/*/rate") == [1, 2]
    assert missing(figures, ("sets/*/rate", "sets/*/speed", "rows/*/x", "none")) == ["sets/*/speed", "rows/*/x"]
    assert missed(figures, {"sets/*/rate": (">=", 2), "other": ("==", 1)}) == [
        "sets/*/rate is 1, the goal is >= 2",
        "other is missing, the goal is == 1",
    ]


def test_what_a_machine_lacks_is_the_reason_for_leaving_a_script_out(tmp_path):
    assert lacks(("json", str(tmp_path)), tmp_path / "none") != ""  # a folder that holds no model
    assert lacks(("json",), tmp_path) == ""
    assert "shared data not found" in lacks(("data",), tmp_path / "none")
    assert lacks(("no_such_package",), tmp_path) == "the Python package no_such_package is not installed"


@pytest.mark.parametrize("path", scripts().values(), ids=scripts())
def test_every_benchmark_says_what_it_prints(path):
    assert declaration(path).keys
    source = path.read_text()
    comparison = "from harness import" in source and "options(" in source  # it takes them from there
    assert comparison or '"--quick"' in source
    assert comparison or '"--json"' in source


def test_only_what_can_be_started_is_a_benchmark():
    helpers = {path.stem for path in FOLDER.glob("*.py") if not starts(path)}
    assert helpers == {"goals", "gpu_target", "harness", "miniature", "training_sides", "tunix_side"}


@pytest.mark.slow
def test_the_runner_runs_a_benchmark_and_says_how_it_went():
    command = [sys.executable, str(FOLDER / "run_quick.py"), "--only", "article_extraction", "--json"]  # soon done
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["article_extraction"]["state"] == "ok"
