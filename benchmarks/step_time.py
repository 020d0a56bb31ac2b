"""CPU time of a training step by layer and by operation, and what the native kernels change of it.

    python benchmarks/step_time.py --quick
    python benchmarks/step_time.py --json
    python benchmarks/step_time.py --profile native     # by operation, of one form

SmolLM2-135M's shapes with random weights, rank 16 on all linear layers, bfloat16, remat `names`, one packed row of
three records, forwards and backwards. A layer's time is that of a deep stack less that of a shallow one, over the
layers between, in CPU milliseconds of the process; the forms take turns in it, so a busy machine slows all alike.
The distance of a form is that of its gradient in bfloat16 to the blocked form's in float32, as a share of the latter.
"""

from __future__ import annotations

import argparse
import collections
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from goals import Goals, finish

KEYS = "cpu_ms_a_layer/blocked step_cpu_ms/blocked gradient_distance/blocked tokens layers rounds"
GOALS: Goals = {"gradient_distance/*": ("<=", 0.05)}
SUPERVISED = 0.08  # of a record's tokens
FORMS = ("blocked", "native")


def case(layers: int, tokens: int, dtype: str) -> dict[str, Any]:
    """A stack of layers, an adapter that changes its function, and a row of three records."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jora_engine.config.architecture import ModelConfig
    from jora_engine.config.lora import LoraConfig
    from jora_engine.model.lora import init_lora
    from jora_engine.model.ops_cpu import to_bits
    from jora_engine.model.parameters import untrained_params
    from jora_engine.training.packing import Example, make_batch

    model = ModelConfig("llama", 49152, 576, 1536, layers, 9, 3, 64)
    lora_config = LoraConfig(rank=16, alpha=16.0)
    rng = np.random.default_rng(0)
    lengths = [tokens * share // 100 for share in (36, 33, 28)]
    records = []
    for length in lengths:
        ids, cut = rng.integers(0, model.vocab_size, length).astype(np.int32), int(length * (1 - SUPERVISED))
        records.append(Example(ids[:cut], ids[cut:]))
    capacity = -(-sum(len(r.completion) for r in records) // 64) * 64
    lora = init_lora(lora_config, model, 0)
    lora = {
        n: {"a": ab["a"], "b": jnp.asarray(rng.normal(0, 0.02, ab["b"].shape), jnp.float32)} for n, ab in lora.items()
    }
    params = untrained_params(model, 0, "bfloat16")
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)  # the same numbers in float32
    params["layers"] = jax.tree.map(to_bits, params["layers"])
    return {
        "model": model,
        "config": lora_config,
        "lora": lora,
        "params": params,
        "batch": make_batch(records, [[0, 1, 2]], tokens, capacity),
    }


def program(case: dict[str, Any], form: str):
    """The compiled gradient of a micro batch, and a call that runs it: (program, () -> gradient)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jora_engine.training.step import StepOptions, Weights, add_gradient

    options = StepOptions(case["model"], case["config"], "names", form, None)
    weights = Weights(np.float32(1), np.float32(1))
    arguments = (case["lora"], case["params"], case["batch"], weights, jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, case["lora"])
    compiled = add_gradient.lower(zeros, *arguments, options=options).compile()

    def run():
        fresh = jax.tree.map(jnp.zeros_like, case["lora"])  # the program consumes it
        return jax.block_until_ready(compiled(fresh, *arguments))[0]

    return compiled, run


def cpu_ms(run) -> float:
    began = time.process_time()
    run()
    return 1e3 * (time.process_time() - began)


def distance(ours: Any, exact: Any) -> float:
    import jax
    import numpy as np

    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True))
    apart = sum(float(np.square(np.asarray(a) - np.asarray(b)).sum()) for a, b in pairs)
    return (apart / sum(float(np.square(np.asarray(b)).sum()) for _, b in pairs)) ** 0.5


def profile(tokens: int, form: str) -> dict[str, float]:
    """CPU milliseconds by kind of operation, of four layers."""
    import jax

    deep = case(4, tokens, "bfloat16")
    compiled, run = program(deep, form)
    text = compiled.as_text()
    run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    origin = {m[1]: m[0] for m in re.finditer(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*$", text, re.MULTILINE)}
    spent: collections.Counter[str] = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in origin:
                    spent[kind(event.name, origin[event.name])] += round(event.duration_ns)
    return {name: round(value / 1e6, 1) for name, value in spent.most_common()}


def kind(name: str, line: str) -> str:
    """What an instruction of the compiled program does, from its name and the operation it came from."""
    if name.startswith(("while", "call", "conditional", "tuple", "parameter", "get-tuple")):
        return "loops and calls, with what they hold"
    came = re.search(r'op_name="([^"]*)"', line)
    return f"{came[1].rsplit('/', 1)[-1] if came else ''} {re.sub(r'[.0-9]+$', '', name)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 tokens, two layers, one round")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--profile", choices=FORMS, help="one form by operation, and nothing else")
    args = parser.parse_args()
    tokens, layers, rounds = (256, 2, 1) if args.quick else (args.tokens, args.layers, args.rounds)
    if args.profile:
        for name, value in profile(tokens, args.profile).items():
            print(f"{value:9.1f} ms  {name}")
        return 0

    from jora_engine.model.native.library import Unavailable, library

    forms: tuple[str, ...] = FORMS
    try:
        print(f"native kernels: {library().name}", flush=True)
    except Unavailable as reason:
        print(f"no native kernels: {reason}", flush=True)
        forms = FORMS[:1]
    exact = program(case(layers, tokens, "float32"), "blocked")[1]()
    depths = {depth: case(depth, tokens, "bfloat16") for depth in (1, layers)}
    runs = {form: {depth: program(made, form)[1] for depth, made in depths.items()} for form in forms}
    apart = {form: distance(runs[form][layers](), exact) for form in forms}
    times: dict[str, dict[int, list[float]]] = {form: {depth: [] for depth in depths} for form in forms}
    for _ in range(rounds):
        for form in forms:
            for depth in depths:
                times[form][depth].append(cpu_ms(runs[form][depth]))
    step = {form: statistics.median(times[form][layers]) for form in forms}
    layer = {form: (step[form] - statistics.median(times[form][1])) / (layers - 1) for form in forms}
    figures = {
        "cpu_ms_a_layer": {form: round(value, 1) for form, value in layer.items()},
        "step_cpu_ms": {form: round(value, 1) for form, value in step.items()},
        "native_over_blocked": round(step["native"] / step["blocked"], 3) if "native" in forms else None,
        "gradient_distance": {form: round(value, 5) for form, value in apart.items()},
        "tokens": tokens,
        "layers": layers,
        "rounds": rounds,
    }
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    return finish(figures, GOALS, args.json)


if __name__ == "__main__":
    sys.exit(main())
