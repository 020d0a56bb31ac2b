"""Places of a row: attention is computed for them alone, and nothing changes there."""

import jax
import numpy as np

from jora_engine.model.attention import Mask, attention
from jora_engine.model.places import Places, asked, take


def test_queries_that_are_not_asked_for_change_nothing_for_the_others():
    segments = np.repeat([[1, 2, 0]], [200, 250, 50], axis=1).astype(np.int32)
    positions = np.concatenate([np.arange(200), np.arange(250), np.arange(50)])[None].astype(np.int32)
    mask = Mask(segments, positions)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (1, 500, n, 16)) for key, n in zip(keys, (4, 2, 2)))
    places = Places(np.array([[3, 180, 199, 440, 0, 0]]), np.array([[True] * 4 + [False] * 2]))
    weight = jax.random.normal(keys[3], (1, 6, 4, 16)) * places.used[..., None, None]

    @jax.jit
    def run(q, k, v, mask):
        def value(q, k, v):
            out = take(attention(q, k, v, mask), places)
            return (out * weight).sum(), out[:, :4]

        return jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    for ours, theirs in zip(jax.tree.leaves(run(q, k, v, asked(mask, places))), jax.tree.leaves(run(q, k, v, mask))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
