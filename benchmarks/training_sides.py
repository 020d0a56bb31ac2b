"""LoRA over the steps of a job by the engine and by transformers + PEFT: the same records, order, start, rates, loss.

The other side is written as the documentation of transformers, PEFT and bitsandbytes has it. Both start from the same
adapter, step AdamW at a constant rate and normalise the loss by the answer tokens of the whole step, so what differs is
arithmetic. The first step of either holds what compiles, and is not to be timed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import squad_records

ENGINE_ROWS = 2  # rows of a micro batch: one a core
PEFT_MICRO_BATCH = 2
GLIBC = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # of either side's process, as the train stage sets it


@dataclass(frozen=True)
class Size:
    """How much there is to do.

    Attributes:
        records: of a step.
        passages: of a record.
        held_out: records whose loss is taken before the first step, half way and at the end.
    """

    steps: int
    records: int
    row_tokens: int
    passages: int
    held_out: int = 0


def training_job(
    place: Path, model: Path, data: Path, size: Size, *, seed: int, dtype: str
) -> tuple[dict[str, Any], list[Any]]:
    """(job, examples): records of SQuAD that fit a row, written beside the job, and which of them each step holds."""
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.training.records import read_examples

    count = size.steps * size.records + size.held_out
    file = place / "records.jsonl"
    fitting: list[int] = []
    for sample in (count, 2 * count):  # twice as many where some do not fit
        file.write_text("".join(json.dumps(r) + "\n" for r in squad_records(data, sample, seed, size.passages)))
        examples = read_examples(file, Tokenizer.load(model))
        fitting = [i for i, example in enumerate(examples) if example.length <= size.row_tokens][:count]
        if len(fitting) == count:
            break
    else:
        raise SystemExit(f"{len(fitting)} records of {count} fit a row of {size.row_tokens} tokens")
    held_out, trained = fitting[: size.held_out], fitting[size.held_out :]
    job = {
        "model": str(model),
        "records": str(file),
        "steps": [trained[at : at + size.records] for at in range(0, len(trained), size.records)],
        "held_out": held_out,
        "row_tokens": size.row_tokens,
        "dtype": dtype,
        "rate": 5e-4,
        "seed": seed,
    }
    return job, examples


def settings(job: dict[str, Any], precision: str) -> tuple[Any, Any]:
    """LoRA and training configuration of a side."""
    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig

    training = TrainConfig(
        seed=job["seed"],
        sequence_length=job["row_tokens"],
        micro_batch_rows=ENGINE_ROWS,
        accumulation=1,
        max_steps=len(job["steps"]),
        dtype=job["dtype"],
        base_precision=precision,
    )
    return LoraConfig(rank=16, alpha=16.0), training


def train_engine(job: dict[str, Any], precision: str = "bfloat16") -> dict[str, Any]:
    """This project over packed rows, its base in that precision.

    Returns:
        losses and seconds by step; validation: losses of the held-out records; weights_mib; fill: share of the rows
        that is tokens.
    """
    import jax
    import optax

    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import load_params, packed_leaves, read_model_config
    from jora_engine.model.lora import init_lora
    from jora_engine.model.parameters import param_shapes
    from jora_engine.model.sharding import place, use_cores
    from jora_engine.training.loop import Schedule, Trainer
    from jora_engine.training.packing import Packing, pack
    from jora_engine.training.plan import held_as_bits
    from jora_engine.training.records import read_examples

    use_cores(ENGINE_ROWS)
    folder = Path(job["model"])
    model, (lora, config) = read_model_config(folder), settings(job, precision)
    examples = read_examples(Path(job["records"]), Tokenizer.load(folder))
    rows: list[tuple[int, ...]] = []
    steps = []
    for numbers in job["steps"]:
        packed = pack([examples[i] for i in numbers], config.sequence_length, seed=0, epoch=0)
        steps.append((0, range(len(rows), len(rows) + len(packed.rows))))
        rows += [tuple(numbers[i] for i in row) for row in packed.rows]
    capacity = max(sum(len(examples[i].completion) for i in row) for row in rows)
    placement = place(model)
    shapes = param_shapes(model, packed=packed_leaves(folder, model, precision))
    shardings = placement.params(shapes) if placement else None
    params = load_params(folder, model, job["dtype"], shardings, bits=held_as_bits(), precision=precision)
    held_out = [examples[i] for i in job["held_out"]]
    trainer = Trainer(params, model, lora, config, examples, held_out, placement)
    trainer.schedule = Schedule(
        (Packing(tuple(rows), config.sequence_length, -(-capacity // 64) * 64, 0.0),), tuple(steps), len(steps)
    )
    adamw = optax.adamw(job["rate"], eps=1e-8, weight_decay=0.0)
    trainer.optimizer, trainer.rate = optax.chain(optax.clip_by_global_norm(1.0), adamw), lambda step: job["rate"]
    state = trainer.initial_state()
    start = jax.tree.leaves(init_lora(lora, model, job["seed"]))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state.lora), start, strict=True))
    losses, seconds, validation = [], [], []
    if held_out:
        validation.append(trainer.evaluate(state.lora))
    for step in range(len(steps)):
        began = time.perf_counter()
        state, row = trainer._step(state, step, lambda: False, lambda event: None)
        seconds.append(time.perf_counter() - began)
        losses.append(row["loss"])
        if held_out and step + 1 in (len(steps) // 2, len(steps)):
            validation.append(trainer.evaluate(state.lora))
    weights = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params))
    fill = sum(examples[i].length for row in rows for i in row) / (config.sequence_length * len(rows))
    figures = {"losses": losses, "seconds": seconds, "validation": validation}
    return {**figures, "weights_mib": weights / 2**20, "fill": fill}


def train_peft(job: dict[str, Any], precision: str = "bfloat16", *, packed: bool = False) -> dict[str, Any]:
    """transformers + PEFT, with bitsandbytes where the base is in `nf4`; padded micro batches, or `packed` rows.

    Returns:
        losses and seconds by step; validation: losses of the held-out records; weights_mib.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from jora_engine.adapters.peft_folder import adapter_tensors
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import read_model_config
    from jora_engine.model.lora import init_lora
    from jora_engine.training.records import read_examples

    torch.manual_seed(0)
    folder = Path(job["model"])
    config, (lora, _) = read_model_config(folder), settings(job, "bfloat16")
    examples = read_examples(Path(job["records"]), Tokenizer.load(folder))
    dtype = getattr(torch, job["dtype"])
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "use_cache": False}
    if precision == "nf4":
        options |= {
            "device_map": "cpu",
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            ),
        }
    base = AutoModelForCausalLM.from_pretrained(folder, **options)
    weights = sum(p.numel() * p.element_size() for p in base.parameters())
    model = peft.get_peft_model(base, peft.LoraConfig(**lora.to_peft(config) | {"inference_mode": False}))
    start = adapter_tensors(init_lora(lora, config, job["seed"]), config, range(config.num_layers))
    state = {k.replace(".weight", ".default.weight"): torch.tensor(np.array(v)) for k, v in start.items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=job["rate"], eps=1e-8, weight_decay=0.0)

    def summed(numbers: list[int], backward: bool) -> float:
        chosen = [examples[i] for i in numbers]
        weight = torch.tensor(sum(len(e.completion) for e in chosen))
        pairs = [chosen[at : at + PEFT_MICRO_BATCH] for at in range(0, len(chosen), PEFT_MICRO_BATCH)]
        total = 0.0
        for group in fit_rows(chosen, job["row_tokens"]) if packed else pairs:
            inputs, labels = flattened(group) if packed else padded(group)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job["dtype"] == "bfloat16"):
                loss = model(**inputs, labels=labels, num_items_in_batch=weight).loss
            if backward:
                loss.backward()
            total += float(loss.detach())
        return total

    def evaluate() -> float:
        with torch.inference_mode():
            return summed(job["held_out"], backward=False)

    steps = job["steps"]
    losses, seconds, validation = [], [], [evaluate()] if job["held_out"] else []
    for step, numbers in enumerate(steps, 1):
        began = time.perf_counter()
        losses.append(summed(numbers, backward=True))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
        if job["held_out"] and step in (len(steps) // 2, len(steps)):
            validation.append(evaluate())
    return {"losses": losses, "seconds": seconds, "validation": validation, "weights_mib": weights / 2**20}


def padded(group: list[Any]) -> tuple[dict[str, Any], Any]:
    """(inputs, labels) of a batch padded to its longest record."""
    import torch

    width = max(e.length for e in group)
    ids, mask = torch.zeros(len(group), width, dtype=torch.long), torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full((len(group), width), -100)
    for row, e in enumerate(group):
        ids[row, : e.length] = torch.tensor(e.tokens)
        mask[row, : e.length] = 1
        labels[row, len(e.prompt) : e.length] = torch.tensor(e.completion).long()
    return {"input_ids": ids, "attention_mask": mask}, labels


def fit_rows(chosen: list[Any], row_tokens: int) -> list[list[Any]]:
    """The records of a step by the row that the engine would put them in."""
    from jora_engine.training.packing import pack

    return [[chosen[i] for i in row] for row in pack(chosen, row_tokens, seed=0, epoch=0).rows]


def flattened(group: list[Any]) -> tuple[dict[str, Any], Any]:
    """(inputs, labels) of one row of several records: transformers' own packing, positions that restart."""
    import torch

    ids = torch.tensor(np.concatenate([e.tokens for e in group]))[None].long()
    positions = torch.tensor(np.concatenate([np.arange(e.length) for e in group]))[None].long()
    labels = torch.cat(
        [torch.cat([torch.full((len(e.prompt),), -100), torch.tensor(e.completion).long()]) for e in group]
    )
    return {"input_ids": ids, "position_ids": positions}, labels[None]
