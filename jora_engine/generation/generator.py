"""Batched generation: prompts in, completions out, by way of the same engine that serves.

The longest prompts go first, so neighbours are of similar length and the cache is no wider than it must be. What a row
yields depends on its prompt and the seed, not on its neighbours. Knows nothing of records or retrieval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.batching import Engine, bucket
from jora_engine.generation.loaded import LoadedModel, load_model, model_of
from jora_engine.generation.requests import Choices, Completion, Job, Request, check_request
from raft_errors import BadInput

ROW_COUNTS = (8, 16, 32, 64, 128)  # with fewer XLA:CPU is slower (below 4) and rounds differently

Constraint = Callable[[int, Sequence[int]], Choices]

__all__ = ["Completion", "Constraint", "Generator"]


class Generator:
    """A model ready to generate, its adapter merged in float32 and cast once, or beside packed weights.

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
        precision: str | None = None,
    ) -> None:
        """Loads a Hugging Face folder and optionally a PEFT adapter.

        Args:
            max_rows: prompts decoded side by side at most.
            base_digest: compared with the digest that the adapter was made for.
            chat: what the chat template is told, the keywords of `Tokenizer.load` (`variables`, `prefill`).
            precision: how the base is held (`recipe.PRECISIONS`); None = as the adapter's was in training.
        """
        folder, adapter = Path(folder), Path(adapter) if adapter is not None else None
        model = load_model(folder, adapter, dtype, base_digest=base_digest, chat=chat, precision=precision)
        self._set_up(model, max_rows)

    @classmethod
    def from_params(
        cls, params: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer, *, max_rows: int = 32
    ) -> Generator:
        """From a parameter tree in memory (layers stacked), for example in the middle of training."""
        self = cls.__new__(cls)
        self._set_up(model_of(params, config, tokenizer), max_rows)
        return self

    def _set_up(self, model: LoadedModel, max_rows: int) -> None:
        self.max_rows = max_rows
        self._model = model
        self._engine: Engine | None = None

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
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
            ignore_eos: whether the tokenizer's end tokens are ordinary ones.
            constrain: called with a prompt's number and the ids made so far; what may come next (`requests.Choices`). A
                few tokens are made freely, and taken back from the first that may not stand there.
            on_done: called with a prompt's number and its completion as each finishes.
            on_text: called with a prompt's number and its text so far, every few tokens; each text begins with the one
                before it, and the last one is the completion's.

        Raises:
            BadInput: a prompt is empty, holds an unknown id, or is too long for the model with `max_new_tokens`.
        """
        given = list(prompts)
        if any(isinstance(prompt, str) for prompt in given):  # a text is a list of its letters
            raise BadInput("A prompt is a text", expected="token ids, as tokenizer.apply_chat_template gives")
        seen: Counter[tuple[int, ...]] = Counter()
        requests = []
        for index, prompt in enumerate(map(tuple, given)):
            request = Request(
                prompt,
                max_new_tokens,
                temperature=float(temperature),
                top_p=float(top_p),
                seed=seed,
                repeat=seen[prompt],
                stop=tuple(stop),
                ignore_eos=ignore_eos,
                allowed=partial(constrain, index) if constrain else None,
            )
            check_request(request, self.config, f"prompt {index}")
            requests.append(request)
            seen[prompt] += 1
        if not requests:
            return []
        engine, jobs = self._engine_for(len(requests)), {}
        failed: list[Exception] = []

        def ended(index: int, job: Job) -> None:
            if job.error:
                failed.append(job.error)
            elif on_done and job.completion and job.completion.finish_reason != "abort":
                on_done(index, job.completion)

        try:
            for index in sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt), i)):
                jobs[index] = engine.submit(
                    requests[index], partial(on_text, index) if on_text else None, partial(ended, index)
                )
            while engine.step():
                if failed:
                    raise failed[0]
            if failed:
                raise failed[0]
        finally:
            engine.clear()
        return [job.completion for _, job in sorted(jobs.items()) if job.completion]

    def logits(self, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Float32 logits `[len(prompt), vocab]` of each prompt, computed as generation computes them."""
        engine = self._engine_for(1)
        return [engine.logits(prompt) for prompt in prompts]

    def _engine_for(self, prompts: int) -> Engine:
        """The engine with rows for so many prompts: few or many, so that few programs are compiled."""
        rows = bucket(min(prompts, self.max_rows), ROW_COUNTS)
        if self._engine is None or self._engine.rows != rows:
            self._engine = Engine(self._model, rows)
        return self._engine
