"""A model with numbers from numpy, and prompts, whose tokens the generator of commit 714960c made.

That generator ran prompts by dense attention and had temperature and top_p as static arguments.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.parameters import param_shapes

MODEL = ModelConfig(
    family="llama",
    vocab_size=96,
    hidden_size=48,
    intermediate_size=64,
    num_layers=3,
    num_heads=3,
    num_kv_heads=1,
    head_dim=16,
    tie_embeddings=True,
    max_position_embeddings=1024,
    eos_ids=(2,),
)
TOKENIZER: Any = SimpleNamespace(
    eos_ids=(2,), vocab_size=96, decode=lambda ids, skip_special_tokens=False: "".join(chr(0x100 + i) for i in ids)
)
_rng = np.random.default_rng(0)


def _draw(path: Any, leaf: Any) -> np.ndarray:
    if "norm" in path[-1].key:
        return _rng.uniform(0.5, 1.5, leaf.shape).astype("f4")
    size = 1.0 if path[-1].key == "embed" else 2.0
    return (_rng.normal(0, 1, leaf.shape) * size * leaf.shape[-1] ** -0.5).astype("f4")


_weights = jax.tree_util.tree_map_with_path(_draw, param_shapes(MODEL, "float32"))
PROMPTS = [[int(t) for t in _rng.integers(3, 96, n)] for n in (1, 3, 37, 2, 11, 40, 300, 5)]


def weights() -> dict[str, Any]:
    """The parameter tree, layers stacked."""
    return _weights
