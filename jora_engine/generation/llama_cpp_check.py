"""Whether llama.cpp, given a base and an adapter as GGUF, answers as the engine does: asked, not derived from rules."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.adapters.gguf_adapter import write_gguf_adapter
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import parameters
from jora_engine.files.chat_template import Message
from jora_engine.files.gguf_writer import write_gguf
from jora_engine.files.weights import read_model_config
from jora_engine.generation.generator import Generator
from jora_engine.generation.llama_cpp import ask_llama_cpp
from raft_errors import BadInput

NEAR_TIE = 0.05
"""Logits by which llama.cpp's choice may fall behind the engine's: its GELU, for one, is a table in float16."""


@dataclass(frozen=True)
class Agreement:
    """How llama.cpp answered beside the engine, both in float32.

    Attributes:
        chats: how many were asked.
        same_prompts: of these, chats that llama.cpp's own template engine and tokenizer turn into the engine's tokens,
            with no second BOS.
        same_answers: prompts that both continued with the same tokens.
        near_ties: of the others, those that part where the engine itself hardly prefers one token.
        version: of the wheel that llama.cpp came in.
    """

    chats: int
    same_prompts: int
    same_answers: int
    near_ties: int
    version: str

    @property
    def agree(self) -> bool:
        return self.same_prompts == self.chats and self.same_answers + self.near_ties == self.chats


def compare_with_llama_cpp(
    base: Path,
    adapter: Path | None,
    chats: Sequence[Sequence[Message]],
    *,
    chat: Mapping[str, Any] | None = None,
    new_tokens: int = 24,
    threads: int | None = None,
) -> Agreement:
    """Writes base and adapter as GGUF into a folder that is removed afterwards, and asks both.

    Args:
        adapter: a PEFT folder; None for the base alone, such as a merged model.
        chat: what the chat template is told, the keywords of `Tokenizer.load`.

    Raises:
        BadInput: one of them cannot be written as GGUF, or there is no room for it.
        RaftError: llama.cpp does not answer.
    """
    model = read_model_config(base)
    with tempfile.TemporaryDirectory() as scratch:
        _require_room(Path(scratch), model)
        file = write_gguf(base, Path(scratch, "base.gguf"), "float32", chat=chat)
        lora = None if adapter is None else write_gguf_adapter(adapter, model, Path(scratch, "adapter.gguf"))
        engine = Generator(base, adapter, dtype="float32", chat=chat, precision="bfloat16")
        prompts = [engine.tokenizer.apply_chat_template(one, add_generation_prompt=True) for one in chats]
        ours = [list(one.token_ids) for one in engine.generate(prompts, max_new_tokens=new_tokens)]
        theirs = ask_llama_cpp(file, chats, prompts, adapter=lora, new_tokens=new_tokens, threads=threads)
    prompt_rows = zip(prompts, theirs.rendered, theirs.counted, strict=True)
    gaps = [
        _gap(engine, prompt, one, other) for prompt, one, other in zip(prompts, ours, theirs.continued, strict=True)
    ]
    return Agreement(
        chats=len(prompts),
        same_prompts=sum(prompt == tokens and len(prompt) == count for prompt, tokens, count in prompt_rows),
        same_answers=gaps.count(None),
        near_ties=sum(gap is not None and gap <= NEAR_TIE for gap in gaps),
        version=theirs.version,
    )


def _gap(engine: Generator, prompt: list[int], ours: list[int], theirs: list[int]) -> float | None:
    """Where the two part, how far the other's token is behind ours in the engine's logits; None where they do not.

    The engine's answer ends before a stop token, the other's may go on behind it.
    """
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
    if place is None:
        return None if len(theirs) >= len(ours) else float("inf")
    logits = np.asarray(engine.logits([[*prompt, *ours[:place]]])[0][-1])
    return float(logits[ours[place]] - logits[theirs[place]])


def _require_room(folder: Path, model: ModelConfig) -> None:
    count = sum(int(np.prod(p.shape)) * (model.num_layers if p.per_layer else 1) for p in parameters(model))
    free = shutil.disk_usage(folder).free
    if 4 * count > free:
        raise BadInput(
            f"the base takes {4 * count / 1e9:.1f} GB as float32 GGUF, and {folder.parent} has {free / 1e9:.1f} GB",
            do="set TMPDIR to a folder with more room",
        )
