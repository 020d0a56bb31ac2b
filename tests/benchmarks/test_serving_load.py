"""The loads of `benchmarks/serving.py` are those that it names, and its ratios those of blocks in turn."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: its `serving.py` is not the package
from goals import declaration
from harness import ratio
from serving_arms.load import Block, alike, in_turn, per_cpu, rates, s_lora

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_s_lora_s_generator_has_its_shares_and_lengths():
    uniform = s_lora(1200, 1000, 1.0, 42, 500)
    # 1,000 · (1 - (1 - 1/1,000)^1200) = 699 of 1,000 adapters are asked
    assert abs(len({ask.adapter for ask in uniform}) - 699) < 40
    for alpha in (1.0, 0.3):
        asks = s_lora(20_000, 1000, alpha, 0, 500)
        share = np.mean([ask.adapter < 10 for ask in asks])
        assert share == pytest.approx(0.01**alpha, abs=0.01), "of the first 1 % of the adapters"
    sizes = {len(ask.prompt) for ask in uniform} | {ask.new_tokens for ask in uniform}
    assert (min(sizes), max(sizes)) == (8, 63)
    assert len({ask.prompt[:8] for ask in uniform}) == len(uniform), "no two prompts share a beginning"


def test_two_sides_get_the_same_requests_but_for_the_adapter():
    many, few = s_lora(50, 1000, 1.0, 7, 500), s_lora(50, 5, 1.0, 7, 500)
    assert [(a.prompt, a.new_tokens) for a in many] == [(b.prompt, b.new_tokens) for b in few]
    assert {b.adapter for b in few} == set(range(5))
    assert s_lora(50, 5, 1.0, 8, 500) != few
    assert [a.adapter for a in alike(5, 10, 3, 2, 0, 500)] == [0, 1, 0, 1, 0]
    assert {a.adapter for a in alike(5, 10, 3, 0, 0, 500)} == {None}


def test_sides_take_turns_and_their_ratio_is_the_median_of_pairs():
    order = []

    def side(name, seconds):
        def run(pair):
            order.append((name, pair))
            return Block(seconds * (1 + pair), 2.0, 4, 0)

        return run

    a, b = in_turn([side("a", 1.0), side("b", 2.0)], 3, lambda words: None)
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert ratio(rates(a), rates(b)) == {"ratio": 2.0, "interval": [2.0, 2.0], "pairs": 3}
    assert ratio(per_cpu(a), per_cpu(b))["ratio"] == 1.0
    assert ratio([1.0], [2.0]) == {"ratio": 0.5, "interval": None, "pairs": 1}
    low, high = ratio(np.arange(1, 30), np.ones(29))["interval"]
    assert low < 15 < high


@pytest.mark.slow
def test_the_script_takes_the_package_and_not_itself_for_the_server():
    declared = declaration(BENCHMARKS / "serving.py")
    assert {"throughput_1000_over_5", "lost", "memory_growth"} <= set(declared.keys)
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "serving.py", "--help"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--only" in done.stdout


@pytest.mark.heavy
def test_the_soak_on_the_tiny_model_holds(tmp_path):
    """Facts page, 25: 2,000 requests, 500 cycles of load and unload, a kill."""
    from dataclasses import replace
    from types import SimpleNamespace

    import serving_arms.arms as arms

    bench = arms.Bench(tmp_path, replace(arms.QUICK, soak=(2000, 500)), SimpleNamespace())
    figures = arms.soak_arm(bench)
    assert figures["lost"] == figures["wrong"] == 0
    assert figures["memory_growth"] <= 0.02
    assert figures["slots_used"] == 0
    assert figures["ended_with"] == 0
