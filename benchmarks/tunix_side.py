"""LoRA over the steps of a job by google-tunix, in an environment of its own: it wants other versions than ours.

Written as tunix's own examples have it (`PeftTrainer`, qwix's `LoraProvider`), with two mends, for without them the
losses compare nothing: its llama3 leaves RoPE's base at a million whatever the configuration says, and its default loss
is a mean over each micro batch. Its trainer refuses packing, so every record is padded to the longest of the job; one
width, because another would compile anew.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from training_sides import settings

MODULES = ".*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
MICRO_BATCH = 1  # of two, its scores and logits take twice the memory and no less time a record


def train_tunix(job: dict[str, Any]) -> dict[str, Any]:
    """tunix over the job's steps, from the adapter that the other sides start from.

    Returns:
        losses and seconds by step.
    """
    import jax.numpy as jnp
    import optax
    from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig

    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.training.records import read_examples

    examples = read_examples(Path(job["records"]), Tokenizer.load(Path(job["model"])))
    width = -(-max(examples[i].length for numbers in job["steps"] for i in numbers) // 64) * 64
    micro_batches = len(job["steps"][0]) // MICRO_BATCH
    stamps, losses = [], []

    def batches() -> Any:
        for numbers in job["steps"]:
            stamps.append(time.perf_counter())
            weight = np.float32(sum(len(examples[i].completion) for i in numbers) / micro_batches)
            for at in range(0, len(numbers), MICRO_BATCH):
                yield micro_batch([examples[i] for i in numbers[at : at + MICRO_BATCH]], width, weight)

    class Trainer(PeftTrainer):
        def _write_metrics(self, metrics_buffer: Any) -> None:
            losses.append(float(metrics_buffer.loss))

    adamw = optax.adamw(job["rate"], eps=1e-8, weight_decay=0.0)
    config = TrainingConfig(
        eval_every_n_steps=len(job["steps"]) + 1,
        gradient_accumulation_steps=micro_batches,
        max_inflight_computations=1,  # so that a step's batches are asked for when the step before is nearly done
        data_sharding_axis=(),
    )
    trainer = Trainer(adapted_model(job, jnp.bfloat16), optax.chain(optax.clip_by_global_norm(1.0), adamw), config)
    trainer = trainer.with_gen_model_input_fn(model_inputs).with_loss_fn(loss)
    trainer.train(batches())
    stamps.append(time.perf_counter())
    return {"losses": losses, "seconds": np.diff(stamps).tolist(), "width": width}


def adapted_model(job: dict[str, Any], dtype: Any) -> Any:
    """tunix's llama3 from the base's folder, with the job's first adapter in qwix's factors."""
    import jax.numpy as jnp
    import qwix
    from flax import nnx
    from tunix.models.llama3 import model as llama
    from tunix.models.llama3.params import create_model_from_safe_tensors

    from jora_engine.adapters.peft_folder import adapter_tensors
    from jora_engine.files.weights import read_model_config
    from jora_engine.model.lora import init_lora

    folder = Path(job["model"])
    config, (lora, _) = read_model_config(folder), settings(job, "bfloat16")
    llama.apply_rope = partial(llama.apply_rope, rope_theta=config.rope.theta)
    model = create_model_from_safe_tensors(
        str(folder),
        llama.ModelConfig(
            num_layers=config.num_layers,
            vocab_size=config.vocab_size,
            embed_dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            num_kv_heads=config.num_kv_heads,
            rope_theta=int(config.rope.theta),
            norm_eps=config.rms_norm_eps,
            weight_tying=config.tie_embeddings,
        ),
        dtype=dtype,
    )
    provider = qwix.LoraProvider(module_path=MODULES, rank=lora.rank, alpha=lora.alpha)
    model = qwix.apply_lora_to_model(model, provider, rngs=nnx.Rngs(0), **model.get_model_input())
    tensors = adapter_tensors(init_lora(lora, config, job["seed"]), config, range(config.num_layers))
    start = {name.removeprefix("base_model.model.model."): np.asarray(value) for name, value in tensors.items()}
    for path, value in nnx.iter_graph(model):
        if isinstance(value, nnx.LoRAParam):
            *module, name = map(str, path)  # w_lora_a or kernel_lora_a
            factor = f"{'.'.join(module).replace('.attn.', '.self_attn.')}.lora_{name[-1].upper()}.weight"
            tensor = start.pop(factor).T
            value.value = jnp.asarray(tensor.reshape(value.value.shape), value.value.dtype)
    assert not start, f"not placed: {sorted(start)[:3]}"
    return model


def micro_batch(chosen: list[Any], width: int, weight: np.float32) -> dict[str, np.ndarray]:
    """tokens, seen (no padding) and answers (what the loss counts), each [records, width]; weight: divides the loss."""
    tokens = np.zeros((len(chosen), width), np.int32)
    seen, answers = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for row, example in enumerate(chosen):
        tokens[row, : example.length] = example.tokens
        seen[row, : example.length] = True
        answers[row, len(example.prompt) : example.length] = True
    return {"tokens": tokens, "seen": seen, "answers": answers, "weight": np.asarray(weight)}


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the loss takes of a micro batch."""
    from tunix.sft.utils import build_positions_from_mask, make_causal_attn_mask

    seen = batch["seen"]
    positions, mask = build_positions_from_mask(seen), make_causal_attn_mask(seen)
    others = {name: batch[name] for name in ("tokens", "answers", "weight")}
    return {"positions": positions, "mask": mask, **others}


def loss(model: Any, tokens: Any, positions: Any, mask: Any, answers: Any, weight: Any) -> Any:
    """tunix's default loss but for what divides it: the answers' tokens of the step over its micro batches."""
    import jax
    import jax.numpy as jnp

    logits, _ = model(tokens, positions, None, mask)
    chosen = jax.nn.one_hot(tokens[:, 1:], logits.shape[-1]) * answers[:, 1:, None]
    return -jnp.sum(jax.nn.log_softmax(logits[:, :-1]) * chosen) / weight
