"""A cross-encoder that reads query and passage together, for the first hits of another search.

Better at the top and far slower than vectors (some tens of pairs a second on a CPU). A score depends on its pair alone:
the pair's own length decides the shape of the batch in which it is computed, as with vectors (`retrieval.embedding`).
Knows nothing of the search that the hits come from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.nouns import Hit, ItemCache, Progress, text_sha256
from raft_errors import BadInput, RaftError
from retrieval.embedding.sentence_model import resolve_device

Pair = tuple[str, str]
"""Query and passage."""

LENGTH_STEP = 32  # padded lengths are multiples of this many tokens
ROWS_CPU, ROWS_GPU = 4, 64  # pairs in every batch; a short batch is filled up, so few where rows are dear
_TOKENISED_AT_ONCE = 1024
_CACHE_VERSION = "rerank-1"
_CLERICAL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache"}


@dataclass(frozen=True)
class RerankerFolder:
    """An inspected folder of a cross-encoder.

    Attributes:
        digest: hex sha256 over weights, tokenizer and configuration.
        max_tokens: longest query and passage together, special tokens included; more is cut.
        segments: whether the model is told which tokens are the query's.
    """

    path: Path
    digest: str
    max_tokens: int
    pad_id: int
    segments: bool


@dataclass
class Effort:
    """What a reranker has done so far: pairs asked for, those of them that were computed, and their time."""

    pairs: int = 0
    computed: int = 0
    seconds: float = 0.0

    @property
    def seconds_per_pair(self) -> float | None:
        """None where every score came from the cache."""
        return self.seconds / self.computed if self.computed else None


def inspect_reranker(folder: Path, max_tokens: int | None = None) -> RerankerFolder:
    """Reads and hashes the folder; imports no torch.

    Raises:
        BadInput: no cross-encoder with one output, no safetensors weights, or no tokenizer.json.
    """
    folder = Path(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights or not (folder / "tokenizer.json").is_file():
        raise BadInput(
            f"Reranker folder {folder} has no config.json with safetensors weights and tokenizer.json",
            expected="a cross-encoder for passage ranking",
            do="check the path; pickled .bin weights are refused",
        )
    config = _json(folder / "config.json")
    outputs = config.get("num_labels") or len(config.get("id2label") or {"0": "", "1": ""})
    if outputs != 1:
        raise BadInput(
            f"Reranker folder {folder} holds a model with {outputs} outputs",
            expected="a cross-encoder for passage ranking, which has one",
            do="choose another model",
        )
    limits = [
        _json(folder / "tokenizer_config.json").get("model_max_length"),
        # positions of the RoBERTa family begin behind the padding token
        (config.get("max_position_embeddings") or 512) - (2 if "roberta" in str(config.get("model_type")) else 0),
        max_tokens,
    ]
    total = hashlib.sha256(json.dumps({k: v for k, v in config.items() if k not in _CLERICAL}, sort_keys=True).encode())
    for path in [folder / "tokenizer.json", *weights]:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return RerankerFolder(
        path=folder,
        digest=total.hexdigest(),
        max_tokens=min(int(limit) for limit in limits if limit),
        pad_id=int(config.get("pad_token_id") or 0),
        segments=int(config.get("type_vocab_size") or 0) > 1,
    )


class Reranker:
    """A cross-encoder on one device, loaded when the first pair comes that no cache holds; see `Reranker.load`."""

    def __init__(self, model: RerankerFolder, *, device: str, precision: str) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.effort = Effort()

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "auto", precision: str = "float32", max_tokens: int | None = None
    ) -> Reranker:
        """A sequence-classification model with one output, from a local folder.

        Args:
            precision: `float32` or `bfloat16` of the transformer.
            max_tokens: longest query and passage together; None takes the model's own limit.

        Raises:
            BadInput: the folder holds no such model, or no safetensors weights.
        """
        return cls(inspect_reranker(folder, max_tokens), device=resolve_device(device), precision=precision)

    def score(
        self, pairs: Sequence[Pair], *, cache: ItemCache | None = None, progress: Progress | None = None
    ) -> list[float]:
        """How well each passage answers its query (the model's logit); higher is better, no fixed scale.

        Args:
            cache: finished batches are committed to it; what it holds is not computed again.
        """
        began = time.monotonic()
        distinct = list(dict.fromkeys(pairs))
        keys = {pair: self._key(pair) for pair in distinct} if cache is not None else {}
        kept = cache.get_many(list(keys.values())) if cache is not None else {}
        scores = {pair: float(np.frombuffer(kept[key], "<f8")[0]) for pair, key in keys.items() if key in kept}
        missing = [pair for pair in distinct if pair not in scores]
        for batch, values in self._batches(missing):
            scores.update(zip(batch, values, strict=True))
            if cache is not None:
                rows = zip(batch, values, strict=True)
                cache.put_many({keys[pair]: np.float64(value).tobytes() for pair, value in rows})
            if progress:
                progress(len(scores), len(distinct), "pairs")
        self.effort.pairs += len(pairs)
        if missing:
            self.effort.computed += len(missing)
            self.effort.seconds += time.monotonic() - began
        return [scores[pair] for pair in pairs]

    def _key(self, pair: Pair) -> str:
        model = self.model
        parts = [_CACHE_VERSION, model.digest, self.precision, str(model.max_tokens), *map(text_sha256, pair)]
        return text_sha256("\0".join(parts))

    def _batches(self, pairs: list[Pair]) -> Any:
        """Yields (pairs, their scores), by padded length, then text."""
        if not pairs:
            return
        encodings = []
        for begin in range(0, len(pairs), _TOKENISED_AT_ONCE):
            some = [tuple(_encodable(text) for text in pair) for pair in pairs[begin : begin + _TOKENISED_AT_ONCE]]
            encodings += [(e.ids, e.type_ids) for e in self._tokenizer.encode_batch(some)]
        model, height = self.model, ROWS_GPU if self.device.startswith("cuda") else ROWS_CPU
        lengths = [min(-(-len(ids) // LENGTH_STEP) * LENGTH_STEP, model.max_tokens) for ids, _ in encodings]
        order = sorted(range(len(pairs)), key=lambda i: (lengths[i], pairs[i]))
        begin = 0
        while begin < len(order):
            length = lengths[order[begin]]
            rows = [i for i in order[begin : begin + height] if lengths[i] == length]
            begin += len(rows)
            ids = np.full((height, length), model.pad_id, dtype=np.int64)
            mask, segments = np.zeros_like(ids), np.zeros_like(ids)
            for at in range(height):  # rows beyond the pairs repeat the first one; their scores are dropped
                tokens, types = encodings[rows[at if at < len(rows) else 0]]
                ids[at, : len(tokens)], segments[at, : len(tokens)] = tokens, types
                mask[at, : len(tokens)] = 1
            values = self._forward(ids, mask, segments)[: len(rows)]
            if not np.isfinite(values).all():
                raise RaftError(
                    "The cross-encoder gave scores that are not finite", do="check its files (retrieval.rerank)"
                )
            yield [pairs[i] for i in rows], [float(value) for value in values]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.model.path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=self.model.max_tokens)
        return tokenizer

    @functools.cached_property
    def _forward(self) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """`forward(ids, mask, segments)`, each int64 [rows, length], gives float64 [rows]."""
        import torch

        network, device, segmented = load_network(self.model.path, self.precision), self.device, self.model.segments
        network.to(device).eval()

        def forward(ids: np.ndarray, mask: np.ndarray, segments: np.ndarray) -> np.ndarray:
            further = {"token_type_ids": torch.from_numpy(segments).to(device)} if segmented else {}
            with torch.inference_mode():
                logits = network(
                    input_ids=torch.from_numpy(ids).to(device),
                    attention_mask=torch.from_numpy(mask).to(device),
                    **further,
                ).logits
            return logits.double().cpu().numpy().reshape(-1)

        return forward


def load_network(folder: Path, precision: str) -> Any:
    """The torch module with its weights. Raises BadInput for an architecture that transformers does not know."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=getattr(torch, precision), num_labels=1
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BadInput(f"Reranker folder {folder} cannot be loaded ({error})", do="choose another model") from error
    finally:
        if bars:
            hf_logging.enable_progress_bar()


def reordered(near: Sequence[Hit], scores: Sequence[float], far: Sequence[Hit]) -> list[Hit]:
    """The near hits by their reranker's scores, then the far ones as they were.

    Equal scores keep the order of the first search. What a hit carries is the logistic function of its score, so that
    it lies between 0 and 1; a far hit carries less than all near ones, and scores fall with rank.
    """
    ordered = sorted(zip(scores, near, strict=True), key=lambda pair: (-round(pair[0], 5), pair[1].rank))
    shown = [(hit.chunk_id, logistic(score)) for score, hit in ordered]
    floor = shown[-1][1] if shown else 1.0
    both = shown + [(hit.chunk_id, floor * (1 - place / (len(far) + 1))) for place, hit in enumerate(far, 1)]
    return [Hit(name, round(score, 9), rank) for rank, (name, score) in enumerate(both, 1)]


def logistic(score: float) -> float:
    """1 / (1 + exp(-score)), without overflow."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def _encodable(text: str) -> str:
    """The tokenizer takes no lone surrogates; a text that carries one is read with a question mark there."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, OSError) as error:
        raise BadInput(
            f"{path} cannot be read ({error})", expected="a JSON file", do="fetch the model again"
        ) from error
