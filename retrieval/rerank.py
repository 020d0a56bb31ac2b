"""A cross-encoder that reads query and passage together, over the first hits of another search.

Better at the top and far slower than vectors (tens of pairs a second on a CPU): for answering, not for building data in
bulk. Knows nothing of how the hits were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.nouns import Chunk, Hit, Search
from raft_errors import BadInput
from retrieval.search import passage_text
from retrieval.sentence_model import resolve_device

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
            BadInput: the folder is no such model, or has no safetensors weights.
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
        found = self._model.predict(pairs, batch_size=_PAIRS_A_BATCH, show_progress_bar=False)
        return [float(score) for score in np.asarray(found, dtype=np.float64).reshape(-1)]


def reranked(search: Search, reranker: Reranker, chunks: Mapping[str, Chunk], *, depth: int = 20) -> Search:
    """A search that orders the first `depth` hits of another by the reranker; what lies deeper keeps its order.

    Scores of the result are the reranker's for the first `depth` hits. Deeper ones keep their rank and get a score just
    below, so that scores fall with rank.
    """

    def search_and_rerank(queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = []
        for query, hits in zip(queries, search(queries, max(k, depth))):
            near, far = hits[:depth], hits[depth:]
            scores = reranker.scores(query, [passage_text(chunks[hit.chunk_id]) for hit in near])
            ordered = sorted(zip(scores, near), key=lambda pair: (-round(pair[0], 5), pair[1].chunk_id))
            floor = min(scores, default=0.0)
            both = [(hit.chunk_id, score) for score, hit in ordered]
            both += [(hit.chunk_id, floor - place) for place, hit in enumerate(far, 1)]
            found.append([Hit(name, round(score, 6), rank) for rank, (name, score) in enumerate(both[:k], 1)])
        return found

    return search_and_rerank
