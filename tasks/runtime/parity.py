"""`python -m tasks.runtime.parity JOB.json`: what transformers and PEFT compute from an export, against the engine.

A process of its own, because torch and JAX in one process compete for threads and memory. It measures; the stage
decides whether the figures are good enough.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def compare(model: Any, job: dict[str, Any], references: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """Largest logit difference and greedy continuations of one model.

    Args:
        expected: engine logits `[positions, vocab]` float32 under `<reference>/<prompt number>`.
        name: of the model; it selects the reference and labels the progress.
    """
    import torch

    largest, continuations = 0.0, []
    for number, (prompt, positions) in enumerate(zip(job["prompts"], job["positions"], strict=True)):
        with torch.inference_mode():
            out = model(torch.tensor([prompt]), use_cache=True)
            logits = out.logits[0].float().numpy()[positions]
            continuations.append(greedy(model, out, job["tokens"], set(job["eos"])))
        reference = references[f"{job['references'][name]}/{number}"]
        largest = max(largest, float(np.abs(logits - reference).max()))
        say({"event": "compared", "model": name, "done": number + 1, "total": len(job["prompts"])})
    return {"max_logit_difference": largest, "continuations": continuations}


def greedy(model: Any, out: Any, count: int, eos: set[int]) -> list[int]:
    """At most `count` most likely tokens after what `out` has read, ending before a stop token."""
    import torch

    tokens: list[int] = []
    while len(tokens) < count:
        token = int(out.logits[0, -1].float().argmax())
        if token in eos:
            break
        tokens.append(token)
        if len(tokens) < count:
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
    return tokens


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Figures for the base with the PEFT adapter, and for the merged model, all in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    with np.load(job["logits"], allow_pickle=False) as archive:
        references = dict(archive)
    base = AutoModelForCausalLM.from_pretrained(job["base"], **options)
    results = {"peft": compare(PeftModel.from_pretrained(base, job["adapter"]).eval(), job, references, "peft")}
    del base
    merged = AutoModelForCausalLM.from_pretrained(job["merged"], **options).eval()
    results["merged"] = compare(merged, job, references, "merged")
    return results


def say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        results = run(job)
    except Exception as error:  # noqa: BLE001 - the supervisor needs one line; whatever is wrong, the gate is closed
        say({"event": "error", "what": f"The exported files do not load: {type(error).__name__}: {error}"})
        return 1
    Path(job["out"]).write_text(json.dumps(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
