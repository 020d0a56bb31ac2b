"""Texts in, float32 unit vectors out, from a local sentence-transformers folder.

A vector depends on its text alone, not on the texts beside it: the text's own token count decides the batch shape in
which it is computed (matrix kernels are chosen by shape and round differently), so that on one machine a fresh, a
resumed and an incremental run give the same bytes. Finished batches go to the caller's cache in order.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.nouns import ItemCache, Progress, text_sha256
from data.text.counts import counted
from raft_errors import BadInput, RaftError
from retrieval.embedding.bert import numpy_forward
from retrieval.embedding.calibration import Calibration, compare, read_decision, sample_texts, write_decision
from retrieval.embedding.model_folder import ModelFolder, inspect_model
from retrieval.embedding.sentence_model import Forward, batch_rows, hardware, load_forward, resolve_device

log = logging.getLogger("raft.retrieval")

Kind = Literal["passage", "query"]
PRECISIONS = ("float32", "bfloat16")
_LENGTH_STEP = 16  # padded lengths are multiples of this many tokens (an AMX tile is 16 rows)
_WINDOW = 32768  # texts sorted at a time: bounds memory, keeps batches full
_TOKENISED_AT_ONCE = 1024  # the tokenizer needs about 100 bytes a token while it works
_CACHE_VERSION = "embed-1"


@dataclass(frozen=True)
class EmbedderInfo:
    """What decides a vector. Everything but `device` belongs in a cache key.

    Attributes:
        name: folder name, for people.
        digest: hex sha256 of weights, tokenizer, pooling and prompts.
        dim: length of a vector.
        max_tokens: longest input, special tokens included; more is cut and counted.
        precision: `float32` or `bfloat16` (of the transformer; vectors are always float32).
    """

    name: str
    digest: str
    dim: int
    max_tokens: int
    precision: str
    device: str
    query_prompt: str = ""
    passage_prompt: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Embeddings:
    """Vectors, with what it took to make them.

    Attributes:
        vectors: float32 [n, dim], L2-normalised, in the order of the texts.
        tokens: int32 [n], length of each text before cutting, special tokens included.
        truncated: how many texts were longer than the model reads.
        computed, reused: distinct texts run through the model, and taken from the cache.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    truncated: int
    computed: int
    reused: int


class Embedder:
    """A model on one device, loaded when the first text comes that no cache holds. Make one with `Embedder.load`."""

    def __init__(
        self,
        model: ModelFolder,
        info: EmbedderInfo,
        load: Callable[[], Forward],
        rows: int | None = None,
        *,
        interactive: bool = False,
    ) -> None:
        self.info = info
        self._model, self._load, self._rows, self._interactive = model, load, rows, interactive

    @functools.cached_property
    def rows(self) -> int:
        """Texts in every batch."""
        return self._rows or batch_rows(self.info.device)

    @functools.cached_property
    def _forward(self) -> Forward:
        return self._load()

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._model.path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=self.info.max_tokens)
        return tokenizer

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        calibration: Path | None = None,
        rows: int | None = None,
        interactive: bool = False,
    ) -> Embedder:
        """Loads a model from a local folder; never asks a hub.

        Args:
            folder: sentence-transformers layout with safetensors weights and tokenizer.json.
            device: `auto` (cuda where there is one), `cpu`, `cuda`, `cuda:1`.
            precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware has units for it and a measurement
                on 64 texts finds it faster and equal in rank.
            calibration: JSON file that remembers what `auto` chose for this model and hardware.
            rows: texts in every batch; by default what suits the device. It may decide the last bit of a vector.
            interactive: for the questions of somebody who waits: each is computed alone and, where the model is a
                plain BERT and the device `cpu`, without torch. Their vectors differ from the others in the last bits,
                so no cache is read or written.

        Raises:
            BadInput: folder, device or precision cannot be used.
        """
        if precision not in ("auto", *PRECISIONS):
            raise BadInput(f"precision {precision!r} is unknown", expected="auto, float32 or bfloat16", do="use auto")
        model = inspect_model(Path(folder))
        device = resolve_device(device)
        if interactive:
            return cls._open(model, device, "float32" if precision == "auto" else precision, interactive=True)
        description, has_units = hardware(device)
        if precision == "auto":
            if not has_units:
                return cls._open(model, device, "float32", rows)
            key = f"{model.digest[:16]}, {description}"
            decision = read_decision(calibration, key)
            if decision is None:
                decision, embedder = cls._calibrate(model, device)
                write_decision(calibration, key, decision)
                log.info("Embedding precision: %s (%s)", decision.precision, decision.reason)
                return embedder
            precision = decision.precision
        if precision == "bfloat16" and not has_units:
            log.warning("bfloat16 is set for %s, which has no units for it: expect it to be slow", description)
        return cls._open(model, device, precision, rows)

    @classmethod
    def _open(
        cls, model: ModelFolder, device: str, precision: str, rows: int | None = None, *, interactive: bool = False
    ) -> Embedder:
        @functools.cache
        def network() -> tuple[Forward, int]:
            return load_forward(model, device=device, precision=precision)

        def forward() -> Forward:
            light = numpy_forward(model) if interactive and device == "cpu" else None
            return light or network()[0]

        info = EmbedderInfo(
            name=model.path.name,
            digest=model.digest,
            dim=model.dim or network()[1],
            max_tokens=model.max_tokens,
            precision=precision,
            device=device,
            query_prompt=model.query_prompt,
            passage_prompt=model.passage_prompt,
        )
        return cls(model, info, forward, 1 if interactive else rows, interactive=interactive)

    @classmethod
    def _calibrate(cls, model: ModelFolder, device: str) -> tuple[Calibration, Embedder]:
        texts = sample_texts()
        full, half = cls._open(model, device, "float32"), cls._open(model, device, "bfloat16")
        decision = compare(lambda: full._embed(texts).vectors, lambda: half._embed(texts).vectors)
        return decision, half if decision.precision == "bfloat16" else full

    def encode(
        self,
        texts: Sequence[str],
        *,
        cache: ItemCache | None = None,
        kind: Kind = "passage",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """float32 [n, dim], L2-normalised; `embed` also counts tokens and cache hits."""
        return self.embed(texts, cache=cache, kind=kind, progress=progress).vectors

    def embed(
        self,
        texts: Sequence[str],
        *,
        cache: ItemCache | None = None,
        kind: Kind = "passage",
        progress: Progress | None = None,
    ) -> Embeddings:
        """Embeds each text once, however often it occurs.

        Args:
            texts: none may be empty.
            cache: finished batches are committed to it in a fixed order; what it holds is not computed again.
            kind: which of the model's prompts goes before the texts.
            progress: called after every batch with distinct texts done and in all.
        """
        if isinstance(texts, str):  # which is a list of its letters
            raise BadInput("What is to be embedded is one text", expected="a list of texts", do="give [text]")
        for place, text in enumerate(texts):
            if not text.strip():
                raise BadInput(
                    f"Text {place} of {len(texts)} to embed is empty", expected="text", do="drop empty texts"
                )
        embeddings = self._embed(texts, cache, kind, progress)
        if embeddings.truncated:
            log.warning(
                "cut at the embedder's %d tokens: %d of %s",
                self.info.max_tokens, embeddings.truncated, counted(len(texts), "text"),
            )  # fmt: skip
        return embeddings

    def _embed(
        self,
        texts: Sequence[str],
        cache: ItemCache | None = None,
        kind: Kind = "passage",
        progress: Progress | None = None,
    ) -> Embeddings:
        """`embed` of texts that are not empty, without a word about those that are cut."""
        if self._interactive:
            cache = None
        prompt = self.info.query_prompt if kind == "query" else self.info.passage_prompt
        order = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        distinct = list(order)
        vectors = np.empty((len(distinct), self.info.dim), dtype=np.float32)
        tokens = np.empty(len(distinct), dtype=np.int32)
        computed = 0
        for begin in range(0, len(distinct), _WINDOW):
            window = distinct[begin : begin + _WINDOW]
            keys = [self._key(prompt, text) for text in window] if cache is not None else []
            cached = dict(self._read(cache, keys)) if cache is not None else {}
            for i, (count, vector) in cached.items():
                tokens[begin + i], vectors[begin + i] = count, vector
            missing = [i for i in range(len(window)) if i not in cached]
            done = begin + len(cached)
            if progress and cached:
                progress(done, len(distinct), "texts")
            for rows, counts, block in self._batches([window[i] for i in missing], prompt):
                places = [missing[row] for row in rows]
                for place, count, vector in zip(places, counts, block):
                    tokens[begin + place], vectors[begin + place] = count, vector
                if cache is not None:
                    cache.put_many({keys[p]: _pack(c, v) for p, c, v in zip(places, counts, block)})
                computed, done = computed + len(rows), done + len(rows)
                if progress:
                    progress(done, len(distinct), "texts")
        places_of = np.fromiter((order[text] for text in texts), dtype=np.int64, count=len(texts))
        truncated = int((tokens[places_of] > self.info.max_tokens).sum()) if len(texts) else 0
        return Embeddings(vectors[places_of], tokens[places_of], truncated, computed, len(distinct) - computed)

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return self._model.path

    def missing(self, texts: Sequence[str], cache: ItemCache) -> list[str]:
        """The distinct passages that the cache does not hold, in their order."""
        distinct = list(dict.fromkeys(texts))
        prompt = self.info.passage_prompt
        absent: list[str] = []
        for begin in range(0, len(distinct), _WINDOW):
            window = distinct[begin : begin + _WINDOW]
            present = {i for i, _ in self._read(cache, [self._key(prompt, text) for text in window])}
            absent += [text for i, text in enumerate(window) if i not in present]
        return absent

    def remember(self, texts: Sequence[str], embeddings: Embeddings, cache: ItemCache) -> None:
        """Keeps passages that another process embedded with this model, in one commit."""
        keys = [self._key(self.info.passage_prompt, text) for text in texts]
        rows = zip(keys, embeddings.tokens, embeddings.vectors, strict=True)
        cache.put_many({key: _pack(int(tokens), vector) for key, tokens, vector in rows})

    def _key(self, prompt: str, text: str) -> str:
        info = self.info
        return text_sha256(
            "\0".join([_CACHE_VERSION, info.digest, info.precision, str(info.max_tokens), prompt, text_sha256(text)])
        )

    def _read(self, cache: ItemCache, keys: list[str]) -> list[tuple[int, tuple[int, np.ndarray]]]:
        values = cache.get_many(keys)
        size = 4 + 4 * self.info.dim
        return [(i, _unpack(values[key])) for i, key in enumerate(keys) if len(values.get(key, b"")) == size]

    def _batches(self, texts: list[str], prompt: str):
        """Yields (rows into `texts`, token counts, float32 [rows, dim]) by padded length, then text."""
        if not texts:
            return
        ids, counts = self._tokenise(prompt, texts)
        lengths = [min(-(-len(row) // _LENGTH_STEP) * _LENGTH_STEP, self.info.max_tokens) for row in ids]
        order = sorted(range(len(texts)), key=lambda i: (lengths[i], len(ids[i]), texts[i]))
        prompt_tokens = 0 if self._model.include_prompt or not prompt else self._prompt_tokens(prompt)
        height = self.rows
        begin = 0
        while begin < len(order):
            length = lengths[order[begin]]
            rows = [i for i in order[begin : begin + height] if lengths[i] == length]
            begin += len(rows)
            batch = np.full((height, length), self._model.pad_id, dtype=np.int64)
            mask = np.zeros((height, length), dtype=np.int64)
            for at in range(height):  # rows beyond the texts repeat the first one; their vectors are dropped
                row = ids[rows[at if at < len(rows) else 0]]
                batch[at, : len(row)], mask[at, : len(row)] = row, 1
            yield rows, [counts[i] for i in rows], _normalise(self._forward(batch, mask, prompt_tokens)[: len(rows)])

    def _tokenise(self, prompt: str, texts: list[str]) -> tuple[list[np.ndarray], list[int]]:
        """Token ids of each text, cut at the limit, and how many tokens there were before cutting."""
        # The tokenizer takes no lone surrogates; a text that carries one is embedded with a question mark there.
        clean = [(prompt + text).strip().encode("utf-8", "replace").decode("utf-8") for text in texts]
        ids: list[np.ndarray] = []
        counts: list[int] = []
        for begin in range(0, len(clean), _TOKENISED_AT_ONCE):
            for encoding in self._tokenizer.encode_batch_fast(clean[begin : begin + _TOKENISED_AT_ONCE]):
                ids.append(np.asarray(encoding.ids, dtype=np.int32))
                counts.append(len(encoding.ids) + sum(_new_tokens(part) for part in encoding.overflowing))
        return ids, counts

    def _prompt_tokens(self, prompt: str) -> int:
        """Leading tokens that belong to the prompt: its encoding without the closing special tokens."""
        encoding = self._tokenizer.encode(prompt)
        special = encoding.special_tokens_mask
        closing = next((i for i, flag in enumerate(reversed(special)) if not flag), len(special))
        return len(special) - closing


def _new_tokens(encoding) -> int:
    """Tokens of an overflow part that are text (each part carries its own special tokens)."""
    return len(encoding.ids) - sum(encoding.special_tokens_mask)


def _normalise(vectors: np.ndarray) -> np.ndarray:
    """Unit length in float32. The transformer's own half-precision norms are off by about .1 %."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise RaftError(
            "The embedder gave vectors that are not finite",
            expected="finite numbers",
            do="check the model's files, or set embed.precision to float32",
        )
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _pack(tokens: int, vector: np.ndarray) -> bytes:
    return np.int32(tokens).astype("<i4").tobytes() + vector.astype("<f4").tobytes()


def _unpack(value: bytes) -> tuple[int, np.ndarray]:
    return int(np.frombuffer(value, "<i4", count=1)[0]), np.frombuffer(value, "<f4", offset=4)
