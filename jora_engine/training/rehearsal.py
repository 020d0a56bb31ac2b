"""What the base says at every token of what is rehearsed, before a training begins.

A model that learns one form of answer forgets the others. Where the base's own answers stand among the records, the
adapter is held to the base's distribution at each of their tokens (Learning without Forgetting, arXiv 1606.09282), not
to the token that was drawn, which would teach it those answers by heart. The base does not change, so its hidden states
are computed once; the frozen head makes logits of them in each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.recipe import TrainConfig
from jora_engine.model.lora import init_lora
from jora_engine.model.parameters import Params
from jora_engine.training.packing import Batch, Example, make_batch, pack
from jora_engine.training.step import StepOptions, hidden_states


def base_states(
    examples: Sequence[Example],
    params: Params,
    config: TrainConfig,
    options: StepOptions,
    put: Callable[[Batch], Batch],
) -> dict[int, np.ndarray]:
    """`[completion tokens, embed]` of each rehearsed example by its number, in the dtype of the activations.

    Args:
        put: places a batch on the devices.
    """
    same: dict[tuple[bytes, bytes], list[int]] = {}  # a long training rehearses the same replies again
    for number, example in enumerate(examples):
        if example.rehearsed:
            same.setdefault((example.prompt.tobytes(), example.completion.tobytes()), []).append(number)
    numbers = list(same.values())
    chosen = [examples[first] for first, *_ in numbers]
    packing = pack(chosen, config.sequence_length, seed=config.seed, epoch=0)
    lora = options.place(jax.tree.map(jnp.zeros_like, init_lora(options.lora, options.model, config.seed)))
    compute = jax.jit(hidden_states, static_argnames="options")
    of_number: dict[int, np.ndarray] = {}
    for at in range(0, len(packing.rows), config.micro_batch_rows):
        rows = list(packing.rows[at : at + config.micro_batch_rows])
        rows += [()] * (config.micro_batch_rows - len(rows))
        batch = put(make_batch(chosen, rows, packing.length, packing.capacity))
        states = np.asarray(compute(lora, params, batch, None, options=options))
        for r, row in enumerate(rows):
            slot = 0
            for number in row:
                stop = slot + len(chosen[number].completion)
                of_number |= dict.fromkeys(numbers[number], states[r, slot:stop])
                slot = stop
    return of_number
