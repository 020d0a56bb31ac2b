"""LoRA training of RAFT records by transformers + PEFT alone: what the engine's adapters are compared with.

    python benchmarks/peft_reference.py job.json
    python benchmarks/peft_reference.py --quick --json      # a random model in miniature: does it run?

Written as their documentation does it, with none of the engine's code: their chat template, their initial values,
padded micro batches of two, AdamW with a cosine from `learning_rate`, bfloat16 base under autocast, float32 adapter,
the loss of a step over its completion tokens. `raft_literature.py --vary trainer=peft` runs it. The last line with
--json is one object: first_loss, final_loss (nats a completion token), steps, records.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
from goals import Goals, finish
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

KEYS = "first_loss final_loss steps records"
GOALS: Goals = {"steps": (">=", 1)}
MICRO_BATCH = 2


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains, writes the adapter to `out`/adapter and the facts to `out`/training.json.

    The job: `model` (folder), `train` (JSON Lines of instruction, input, output), `out`, `rank`, `learning_rate`,
    `epochs`, `steps` (in all), `seed`. Each epoch goes over all records in an order of its own.
    """
    torch.manual_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16, use_cache=False)
    settings = peft.LoraConfig(
        r=job["rank"], lora_alpha=job["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, settings).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in parameters)
    with open(job["train"], encoding="utf-8") as file:
        examples = [encode(json.loads(line), tokenizer) for line in file]
    optimizer = torch.optim.AdamW(parameters, lr=job["learning_rate"], weight_decay=0.0)
    steps = job["steps"]
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, round(0.03 * steps)), steps)
    order = [i for _ in range(job["epochs"]) for i in torch.randperm(len(examples)).tolist()]
    losses, began = [], time.monotonic()
    for step in range(steps):
        numbers = order[step * len(order) // steps : (step + 1) * len(order) // steps]
        losses.append(one_step(model, [examples[i] for i in numbers]))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        spent = time.monotonic() - began
        tokens = sum(len(examples[i][0]) for i in order[: (step + 1) * len(order) // steps])
        left = spent / (step + 1) * (steps - step - 1)
        event = {"event": "step", "step": step + 1, "steps": steps, "loss": losses[-1], "seconds_left": left}
        print(json.dumps(event | {"tokens_per_second": tokens / spent}), flush=True)
    out = Path(job["out"])
    model.save_pretrained(str(out / "adapter"))
    facts = {"first_loss": losses[0], "final_loss": losses[-1], "steps": steps, "records": len(examples)}
    (out / "training.json").write_text(json.dumps(facts))
    return facts


def encode(record: dict[str, Any], tokenizer: Any) -> tuple[list[int], int]:
    """Token ids of prompt + completion, and where the completion begins."""
    shown = f"{record['instruction']}\n{record['input']}" if record["input"] else record["instruction"]
    turn = [{"role": "user", "content": shown}]
    whole = [*turn, {"role": "assistant", "content": record["output"]}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(whole, tokenize=False).rstrip("\n")
    assert text.startswith(prompt)
    start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    return tokenizer(text, add_special_tokens=False).input_ids, start


def one_step(model: Any, chosen: list[tuple[list[int], int]]) -> float:
    """Gradients of one step; returns the mean loss over its completion tokens, in nats."""
    weight = torch.tensor(sum(len(ids) - start for ids, start in chosen))
    total = 0.0
    for first in range(0, len(chosen), MICRO_BATCH):
        group = chosen[first : first + MICRO_BATCH]
        width = max(len(ids) for ids, _ in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (tokens, start) in enumerate(group):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=weight)
        out.loss.backward()
        total += float(out.loss.detach())
    return total


def miniature_job(place: Path) -> dict[str, Any]:
    """Six epochs over four records, in which even a random model of two layers learns something."""
    import miniature

    training = {"rank": 4, "learning_rate": 5e-2, "epochs": 6, "steps": 12, "seed": 0}
    train_file = miniature.write_records(place / "train.jsonl", 4)
    return {"model": str(miniature.write_base(place / "base")), "train": str(train_file), "out": str(place), **training}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, nargs="?", help="the job (JSON)")
    parser.add_argument("--quick", action="store_true", help="a random model in miniature and four records, no job")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    args = parser.parse_args()
    if args.job is not None:
        return finish(train(json.loads(args.job.read_text())), GOALS, args.json)
    if not args.quick:
        parser.error("a job is needed, or --quick")
    with tempfile.TemporaryDirectory() as place:
        figures = train(miniature_job(Path(place)))
    return finish(figures, {**GOALS, "final_loss": ("<=", 0.99 * figures["first_loss"])}, args.json)


if __name__ == "__main__":
    sys.exit(main())
