"""The base model as its own teacher, through the engine's generator. A `data.teachers.Teacher`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.teachers.protocol import Messages, Reply
from tasks.runtime.folders import ModelFolder

if TYPE_CHECKING:
    from jora_engine.generation.generator import Generator


class LocalTeacher:
    """Loads the model when the first prompt comes, so a run whose replies are all cached loads nothing."""

    def __init__(self, base: ModelFolder, *, batch_size: int, dtype: str) -> None:
        # The weights, not the name alone, decide its replies: there are several conversions of the same model.
        self.name = f"{base.name.rstrip('/').split('/')[-1]}@{base.digest[:12]}"
        self.batch_size = batch_size
        self._base, self._dtype = base, dtype
        self._generator: Generator | None = None

    def complete(
        self, prompts: Sequence[Messages], *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()
    ) -> list[Reply]:
        """One reply per prompt."""
        generator = self._load()
        rendered = [generator.tokenizer.apply_chat_template(m, add_generation_prompt=True) for m in prompts]
        completions = generator.generate(
            rendered, max_new_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop)
        )
        return [completion.text for completion in completions]

    def _load(self) -> Generator:
        if self._generator is None:
            from jora_engine.generation.generator import Generator

            self._generator = Generator(
                self._base.folder, dtype=self._dtype, max_rows=self.batch_size, chat=self._base.chat
            )
        return self._generator
