"""The shape of `/v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def embeddings(vectors: np.ndarray, tokens: int, model: str, form: str) -> dict[str, Any]:
    """The reply.

    Args:
        vectors: float32 [n, dim].
        form: `float`, or `base64` of little-endian float32, which the openai client asks for by itself.
    """

    def shown(vector: np.ndarray) -> list[float] | str:
        if form == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        return vector.tolist()

    rows = [{"object": "embedding", "index": i, "embedding": shown(vector)} for i, vector in enumerate(vectors)]
    return {"object": "list", "data": rows, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
