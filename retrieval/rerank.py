"""A cross-encoder that reads query and passage together, for the first hits of another search.

Better at the top and far slower than vectors (tens of pairs per second on a CPU): for answering, not for building data
in bulk. Knows nothing of the search that the hits come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.embedding.sentence_model import resolve_device

_PAIRS_A_BATCH = 32


class Reranker:
    """A loaded cross-encoder. Make one with `Reranker.load`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", max_tokens: int | None = None) -> Reranker:
        """Loads a sequence-classification model with one output from a local folder.

        Args:
            max_tokens: longest query and passage together; None takes the model's own limit.

        Raises:
            BadInput: the folder holds no such model, or no safetensors weights.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise BadInput(
                f"Reranker folder {folder} has no config.json with safetensors weights",
                expected="a cross-encoder for passage ranking",
                do="check the path; pickled .bin weights are refused",
            )
        from sentence_transformers import CrossEncoder

        try:
            model = CrossEncoder(
                str(folder), device=resolve_device(device), max_length=max_tokens, local_files_only=True, num_labels=1
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"Reranker folder {folder} cannot be loaded ({error})", do="choose another model") from error
        return cls(model)

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """How well each passage answers the query; higher is better, no fixed scale."""
        if not passages:
            return []
        pairs = [(query, passage) for passage in passages]
        raw = self._model.predict(pairs, batch_size=_PAIRS_A_BATCH, show_progress_bar=False)
        return [float(score) for score in np.asarray(raw, dtype=np.float64).reshape(-1)]


def reordered(near: Sequence[Hit], scores: Sequence[float], far: Sequence[Hit]) -> list[Hit]:
    """The near hits by their reranker's scores, then the far ones as they were.

    A far hit gets a score just below all near ones, so that scores fall with rank.
    """
    ordered = sorted(zip(scores, near, strict=True), key=lambda pair: (-round(pair[0], 5), pair[1].chunk_id))
    floor = min(scores, default=0.0)
    both = [(hit.chunk_id, score) for score, hit in ordered]
    both += [(hit.chunk_id, floor - place) for place, hit in enumerate(far, 1)]
    return [Hit(name, round(score, 6), rank) for rank, (name, score) in enumerate(both, 1)]
