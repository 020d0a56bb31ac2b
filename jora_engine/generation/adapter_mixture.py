"""Several adapters as one, exactly: their factors side by side along the rank, each B times its weight.

B A of the result is the weighted sum of every part's own B A, without the cross terms that a sum of factors has. The
rank is the sum of the parts' ranks, so that how many fit is a question of room in the slots.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.generation.adapter_layout import PreparedAdapter, layout_for


def mixed(parts: Sequence[tuple[PreparedAdapter, float]], config: ModelConfig) -> PreparedAdapter:
    """The adapter that adds `sum(weight * delta)` of the parts: A = [A1; A2; ...], B = [w1 B1, w2 B2, ...].

    The scales are in B already. The same parts with the same weights give the same bytes in whatever order they come.
    """
    parts = sorted(parts, key=lambda part: (part[0].digest, part[1]))
    names = frozenset().union(*(part.layout.names for part, _ in parts))
    rank = sum(part.rank for part, _ in parts)
    layout = layout_for(config, rank, names)
    packed = layout.empty(str(parts[0][0].packed.dtype))
    places, at = layout.factors(packed), 0
    for part, weight in parts:
        end = at + part.rank
        for name, (a, b) in part.layout.factors(part.packed).items():
            own_a, own_b = places[name]
            own_a[:, at:end] = a[:, : part.rank]
            own_b[:, at:end] = b[:, : part.rank].astype(np.float32) * np.float32(weight)
        at = end
    identity = json.dumps(["mixture", [[part.digest, weight] for part, weight in parts]])
    return PreparedAdapter(hashlib.sha256(identity.encode()).hexdigest(), rank, layout, packed)
