"""AdamW over the adapter with a warm-up and a schedule, through optax; everything in float32."""

from __future__ import annotations

import optax

from jora_engine.config.recipe import TrainConfig


def learning_rate(config: TrainConfig, steps: int) -> optax.Schedule:
    """Step number -> rate: linear warm-up from one warm-up step's share, then cosine, linear or constant.

    The last step runs at `min_lr_ratio` of the peak (cosine and linear).
    """
    peak = config.learning_rate
    assert peak is not None, "TrainConfig.for_base gives it one"
    warmup = min(steps, max(1, round(config.warmup_ratio * steps))) if config.warmup_ratio > 0 else 0
    rest, floor = max(1, steps - warmup - 1), peak * config.min_lr_ratio
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, config.min_lr_ratio)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, floor, rest)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    ramp = optax.linear_schedule(peak / warmup, peak * (warmup + 1) / warmup, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Global-norm clip, then AdamW (arXiv 1711.05101) with torch's meaning of its parameters."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )
