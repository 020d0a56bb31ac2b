"""What comparisons share: a side in a process of its own gives its figures, and sides take turns."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
from harness import measure, measure_here, turns

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from harness import child, options


def run(side, job):
    variables = [os.environ["HF_HUB_OFFLINE"], os.environ["MORE"]]
    return {{"side": side, "twice": 2 * job["number"], "variables": variables}}


args = options("A comparison.", "little", ["ours", "theirs"]).parse_args()
print("some words before the result")
sys.exit(child(args, run))
"""


def test_a_side_gives_its_figures_from_a_process_of_its_own(tmp_path):
    script, job = tmp_path / "compare.py", tmp_path / "job.json"
    script.write_text(SCRIPT)
    job.write_text(json.dumps({"number": 21}))
    figures = measure(str(script), "theirs", job, MORE="yes")
    assert figures.pop("peak_mib") > 1
    assert figures == {"side": "theirs", "twice": 42, "variables": ["1", "yes"]}


def test_a_side_within_this_process_gives_the_same(monkeypatch):
    for name in ("JAX_PLATFORMS", "HF_HUB_OFFLINE", "TQDM_DISABLE", "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # put back after the test, which the function under test does not do
    figures = measure_here(lambda side, job: {"side": side, **job}, "ours", {"number": 21})
    assert figures.pop("peak_mib") > 1
    assert figures == {"side": "ours", "number": 21}


def test_sides_take_turns_forwards_and_backwards():
    assert list(turns("ABC", 2)) == [(0, "A"), (0, "B"), (0, "C"), (1, "C"), (1, "B"), (1, "A")]
