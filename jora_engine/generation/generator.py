"""Batched generation: prompts in, completions out, with a key/value cache and rows refilled as they finish.

The longest prompts go first, so neighbours are of similar length and the cache is no wider than it must be. Widths and
row counts come from short lists, so few programs are compiled. What a row yields depends on its prompt and the seed,
not on its neighbours. Knows nothing of records or retrieval.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.adapters.merge import merged_reader
from jora_engine.adapters.peft_folder import read_adapter
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import parameters
from jora_engine.files.tensor_files import dtype_named
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import hf_tensors, read_model_config
from jora_engine.generation import decode as engine
from jora_engine.model import kv_cache
from raft_errors import BadInput

CHUNKS = (32, 64, 128, 256)  # tokens of a prompt run at once
STEPS = 8  # tokens decoded between two looks at stop strings and free rows
AHEAD = 128  # new tokens that a fresh row's columns allow for: growing later means another program
WORTH_A_PROGRAM = 256  # tokens still to come from which fewer rows repay compiling for them
ROW_COUNTS = (8, 16, 32, 64, 128)  # with fewer XLA:CPU is slower (below 4) and rounds differently


Constraint = Callable[[int, Sequence[int]], Collection[int] | None]


@dataclass(frozen=True)
class Completion:
    """What a prompt was answered with.

    Attributes:
        text: without special tokens, cut before a stop string.
        token_ids: the generated ids without the final stop token; up to the token that completes a stop string.
        finish_reason: `stop` (a stop token or stop string) or `length`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass
class _Row:
    """A prompt in the works."""

    index: int
    prompt: list[int]
    key: np.ndarray
    made: list[int] = field(default_factory=list)


class Generator:
    """A model ready to generate, its adapter merged in float32 and cast once.

    Example:
        >>> generator = Generator(Path("smollm2"), adapter=Path("adapter"))
        >>> prompt = generator.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], True)
        >>> generator.generate([prompt], max_new_tokens=50)[0].text
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        dtype: str = "bfloat16",
        *,
        max_rows: int = 32,
        base_digest: str | None = None,
        chat: Mapping[str, Any] | None = None,
    ) -> None:
        """Loads a Hugging Face folder and optionally a PEFT adapter.

        Args:
            max_rows: prompts decoded side by side at most.
            base_digest: compared with the digest that the adapter was made for.
            chat: what the chat template is told, the keywords of `Tokenizer.load` (`variables`, `prefill`).
        """
        config = read_model_config(folder)
        lora, lora_config = ({}, LoraConfig()) if adapter is None else read_adapter(adapter, config, base_digest)
        _, read = merged_reader(folder, config, lora, lora_config.scale)
        kind = dtype_named(dtype)
        device = jax.devices()[0]
        per_layer = sum(parameter.per_layer for parameter in parameters(config))
        params: dict[str, Any] = {}
        layers: list[dict[str, Any]] = [{} for _ in range(config.num_layers)]
        for name, (parameter, layer) in hf_tensors(config).items():
            value = read(name).astype(kind, copy=False)
            if layer is None:
                params[parameter.name] = jax.device_put(value, device)
                continue
            layers[layer][parameter.name] = value
            if len(layers[layer]) == per_layer:
                layers[layer] = jax.device_put(engine.prepare_layer(layers[layer], np.concatenate), device)
        self._set_up(config, Tokenizer.load(folder, **(chat or {})), params, layers, max_rows)

    @classmethod
    def from_params(
        cls, params: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer, *, max_rows: int = 32
    ) -> Generator:
        """From a parameter tree in memory (layers stacked), for example in the middle of training."""
        self = cls.__new__(cls)
        layers = [
            engine.prepare_layer({k: v[i] for k, v in params["layers"].items()}, jnp.concatenate)
            for i in range(config.num_layers)
        ]
        self._set_up(config, tokenizer, {k: v for k, v in params.items() if k != "layers"}, layers, max_rows)
        return self

    def _set_up(self, config, tokenizer, params, layers, max_rows) -> None:
        self.config: ModelConfig = config
        self.tokenizer: Tokenizer = tokenizer
        self.max_rows = max_rows
        self._params, self._layers = params, layers
        # XLA:CPU has no bfloat16 update in place: it would convert the whole cache twice at every write
        self._cache_dtype = jnp.float32 if jax.default_backend() == "cpu" else params["embed"].dtype

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        constrain: Constraint | None = None,
        on_done: Callable[[int, Completion], None] | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Completion]:
        """A completion for each prompt, in order.

        Args:
            prompts: token ids, as `tokenizer.apply_chat_template(..., add_generation_prompt=True)` gives.
            temperature: 0 takes the most likely token (lowest id of equals); above 0 draws.
            top_p: draws from the smallest set of tokens that holds this probability.
            seed: with the prompt, and its count where the same prompt is given again, decides every draw.
            stop: strings that end a completion.
            constrain: called with a prompt's number and the ids made so far; the ids that may come next, or None for
                any. A few tokens are made freely, and taken back from the first that may not stand there.
            on_done: called with a prompt's number and its completion as each finishes.
            on_text: called with a prompt's number and its text so far, every few tokens; each text begins with the one
                before it, and the last one is the completion's.

        Raises:
            BadInput: a prompt is empty, holds an unknown id, or is too long for the model with `max_new_tokens`.
        """
        self._check(prompts, max_new_tokens, temperature, top_p)
        seen: Counter[tuple[int, ...]] = Counter()
        waiting: list[_Row] = []
        for index, prompt in enumerate(prompts):
            waiting.append(_Row(index, list(prompt), _row_key(seed, prompt, seen[tuple(prompt)])))
            seen[tuple(prompt)] += 1
        waiting.sort(key=lambda row: (len(row.prompt), -row.index))  # taken from the end: longest first
        done: dict[int, Completion] = {}
        slots: list[_Row | None] = [None] * _bucket(min(len(waiting), self.max_rows), ROW_COUNTS)
        cache = None
        options = {"steps": STEPS, "temperature": float(temperature), "top_p": float(top_p)}
        while waiting or any(slots):
            slots, cache = self._fit(slots, cache, waiting, max_new_tokens)
            for place, row in enumerate(slots):
                if row is None and waiting:
                    slots[place] = waiting.pop()
                    cache = self._start(cache, place, slots[place])  # type: ignore[arg-type]
            cache, _, out = engine.decode(
                self._params,
                self._layers,
                cache,
                self._rows(slots, max_new_tokens),
                config=self.config,
                stops=self.tokenizer.eos_ids,
                barred=self._barred(slots, constrain) if constrain else None,
                **options,
            )
            for place, tokens in enumerate(np.asarray(out).tolist()):
                row = slots[place]
                if row and constrain:
                    tokens = _permitted(row, tokens, constrain)
                finished = row and self._take(row, tokens, max_new_tokens, stop)
                if row and on_text:
                    on_text(row.index, finished.text if finished else self._settled(row, stop))
                if row and finished:
                    done[row.index], slots[place] = finished, None
                    if on_done:
                        on_done(row.index, finished)
        return [done[i] for i in range(len(prompts))]

    def logits(self, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Float32 logits `[len(prompt), vocab]` of each prompt, computed as generation computes them."""
        self._check(prompts, 0, 0.0, 1.0)
        out = []
        for prompt in prompts:
            hidden, _ = self._prefill(list(prompt), len(prompt))
            x = engine.logits(self._params, hidden, config=self.config)
            out.append(np.asarray(x[: len(prompt)], np.float32))
        return out

    def _check(self, prompts, max_new_tokens: int, temperature: float, top_p: float) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise BadInput(
                f"temperature {temperature} with top_p {top_p}",
                expected="temperature 0 or more, top_p above 0 and at most 1",
                do="correct the values",
            )
        for index, prompt in enumerate(prompts):
            if not prompt or min(prompt) < 0 or max(prompt) >= self.config.vocab_size:
                raise BadInput(
                    f"prompt {index} {'holds an id outside the vocabulary' if prompt else 'is empty'}",
                    expected=f"token ids from 0 to {self.config.vocab_size - 1}",
                    do="encode prompts with the model's own tokenizer",
                )
            if len(prompt) + max_new_tokens > self.config.longest_sequence:
                raise BadInput(
                    f"prompt {index} has {len(prompt)} tokens; with {max_new_tokens} new ones it is too long",
                    expected=f"at most {self.config.longest_sequence} in all",
                    do="shorten the prompt or lower max_new_tokens",
                )

    def _fit(self, slots, cache, waiting: list[_Row], max_new_tokens: int):
        """Rows and columns as they are needed now: fewer rows when few are left, columns for the longest row."""
        coming = waiting[-slots.count(None) :] if None in slots else []
        rows = [row for row in slots if row] + coming
        ahead = min(max_new_tokens, AHEAD)
        columns = kv_cache.columns_for(
            max(_width(len(r.prompt) - 1, len(r.prompt) + max(len(r.made), ahead)) for r in rows)
        )
        count = len(slots)
        if cache is None:
            return slots, self._new_cache(count, columns)
        have = kv_cache.columns_of(cache)
        if columns < have and (columns * 2 > have or len(waiting) < count):
            columns = have
        left = max_new_tokens - min(len(row.made) for row in rows)
        if len(rows) * 4 <= count and left >= WORTH_A_PROGRAM:
            count = _bucket(len(rows), ROW_COUNTS)
        if (count, columns) == (len(slots), have):
            return slots, cache
        keep = [place for place, row in enumerate(slots) if row] if count < len(slots) else list(range(count))
        slots = [slots[place] for place in keep] + [None] * (count - len(keep))
        order = np.asarray((keep + [0] * count)[:count], np.int32)
        return slots, kv_cache.reshape_cache(cache, order, columns=columns)

    def _new_cache(self, rows: int, columns: int) -> kv_cache.Cache:
        cache = kv_cache.new_cache(self.config, rows, columns, self._cache_dtype)
        return jax.device_put(cache, jax.devices()[0])  # committed like all later ones, or programs compile twice

    def _start(self, cache, place: int, row: _Row):
        """Puts a prompt's keys and values into a row: all but its last token, which the decode loop takes."""
        if len(row.prompt) == 1:
            return cache
        _, single = self._prefill(row.prompt[:-1], len(row.prompt))
        return kv_cache.insert_row(cache, np.int32(place), single)

    def _prefill(self, tokens: list[int], length: int) -> tuple[jax.Array, kv_cache.Cache]:
        """Hidden states `[at least len(tokens), embed]` and a one-row cache."""
        cache = self._new_cache(1, kv_cache.columns_for(_width(len(tokens), 0)))
        hidden, start = [], 0
        while start < len(tokens):
            size = _bucket(min(len(tokens) - start, CHUNKS[-1]), CHUNKS)
            part = np.zeros(size, np.int32)
            part[: len(tokens) - start] = tokens[start : start + size]
            x, cache = engine.prefill(self._params, self._layers, cache, start, part, length, self.config)
            hidden.append(x)
            start += size
        return jnp.concatenate(hidden), cache

    def _rows(self, slots, max_new_tokens: int) -> engine.Rows:
        def column(value, empty) -> np.ndarray:
            return np.asarray([empty if row is None else value(row) for row in slots])

        return engine.Rows(
            token=column(lambda r: (r.made or r.prompt)[-1], 0).astype(np.int32),
            position=column(lambda r: len(r.prompt) + len(r.made) - 1, 0).astype(np.int32),
            left=column(lambda r: max_new_tokens - len(r.made), 0).astype(np.int32),
            key=column(lambda r: r.key, np.zeros(2, np.uint32)).astype(np.uint32),
            made=column(lambda r: len(r.made), 0).astype(np.int32),
        )

    def _barred(self, slots, constrain: Constraint) -> np.ndarray:
        """`[rows, vocab]` bool: what may not come next."""
        out = np.zeros((len(slots), self.config.vocab_size), bool)
        for place, row in enumerate(slots):
            allowed = constrain(row.index, row.made) if row else None
            if allowed:
                out[place] = True
                out[place, [i for i in allowed if i < self.config.vocab_size]] = False
        return out

    def _settled(self, row: _Row, stop: Sequence[str]) -> str:
        """A row's text without an end that may still change: half a character, or the beginning of a stop string."""
        text = self.tokenizer.decode(row.made, skip_special_tokens=True).rstrip("\ufffd")
        held = max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        return text[: len(text) - held]

    def _take(self, row: _Row, tokens: list[int], max_new_tokens: int, stop: Sequence[str]) -> Completion | None:
        """Adds decoded tokens to a row; its completion when that ends it."""
        before = len(row.made)
        ended = False
        for token in tokens:
            if token < 0 or ended:
                break
            ended = token in self.tokenizer.eos_ids
            if not ended:
                row.made.append(token)
        text = self.tokenizer.decode(row.made, skip_special_tokens=True)
        if any(s in text for s in stop):
            for count in range(before + 1, len(row.made) + 1):
                text = self.tokenizer.decode(row.made[:count], skip_special_tokens=True)
                found = [text.index(s) for s in stop if s in text]
                if found:
                    return Completion(text[: min(found)], tuple(row.made[:count]), "stop")
        if ended:
            return Completion(text, tuple(row.made), "stop")
        if len(row.made) >= max_new_tokens:
            return Completion(text, tuple(row.made), "length")
        return None


def _permitted(row: _Row, tokens: list[int], constrain: Constraint) -> list[int]:
    """The decoded tokens before the first that may not stand where it does; the next round bars it there.

    What was chosen freely and is permitted is what would have been chosen among the permitted.
    """
    made = list(row.made)
    for count, token in enumerate(tokens):
        if token < 0:
            break
        allowed = constrain(row.index, made)
        if allowed and token not in allowed:
            return tokens[:count]
        made.append(token)
    return tokens


def _bucket(size: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that is at least `size`, else the largest."""
    return next((s for s in sizes if s >= size), sizes[-1])


def _width(prefilled: int, used: int) -> int:
    """Columns that a row needs: its prompt in whole chunks, and the next tokens."""
    full, rest = divmod(prefilled, CHUNKS[-1])
    return max(full * CHUNKS[-1] + (_bucket(rest, CHUNKS) if rest else 0), used + STEPS, CHUNKS[0])


def _row_key(seed: int, prompt: Sequence[int], repeat: int) -> np.ndarray:
    """Two 32-bit words that stand for (seed, prompt, how often it came before)."""
    data = np.asarray([seed, repeat, *prompt], np.int64).tobytes()
    return np.frombuffer(hashlib.blake2b(data, digest_size=8).digest(), np.uint32)
