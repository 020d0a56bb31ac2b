"""The requests of a load, what a block of them took, and blocks of two sides in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from harness import turns


@dataclass(frozen=True)
class Ask:
    """One request: random tokens, so that no two share a prefix; `adapter` is a number, None for the base."""

    prompt: tuple[int, ...]
    new_tokens: int
    adapter: int | None


@dataclass
class Block:
    """What a block of requests took.

    Attributes:
        seconds: from its beginning to the end of its last request.
        cpu: CPU seconds of the process that served it, client included.
        requests: finished.
        first: seconds to each request's first token, from when it was due; empty where nobody listened.
    """

    seconds: float
    cpu: float
    requests: int
    tokens: int = 0
    first: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def s_lora(
    count: int, adapters: int, alpha: float, seed: int, vocab: int, span: tuple[int, int] = (8, 64)
) -> list[Ask]:
    """S-LoRA's generator (`benchmarks/trace.py` of S-LoRA): adapter floor(N · power(alpha)), lengths in and
    out uniform in [`span`): theirs is [8, 512), scaled to two cores.

    alpha = 1 is uniform, their table's; at .3 a quarter of the requests is for the first 1 % of the adapters. The same
    seed gives the same prompts and lengths whatever the adapters.
    """
    lengths, names = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    sizes = lengths.integers(*span, (count, 2))
    prompts = [tuple(map(int, lengths.integers(3, vocab, size))) for size in sizes[:, 0]]
    numbers = np.floor(adapters * names.power(alpha, count)).astype(int)
    return [Ask(prompt, int(new), int(n)) for prompt, new, n in zip(prompts, sizes[:, 1], numbers)]


def alike(count: int, tokens: int, new: int, adapters: int, seed: int, vocab: int) -> list[Ask]:
    """Random prompts of one length, adapters in turn; no adapter where there are 0."""
    rng = np.random.default_rng(seed)
    prompts = [tuple(map(int, rng.integers(3, vocab, tokens))) for _ in range(count)]
    return [Ask(prompt, new, n % adapters if adapters else None) for n, prompt in enumerate(prompts)]


def in_turn(sides: Sequence[Callable[[int], Block]], pairs: int, note: Callable[[str], None]) -> list[list[Block]]:
    """For each side its blocks: A B, B A, A B, ... Each is told the number of the pair, which is its seed."""
    out: list[list[Block]] = [[] for _ in sides]
    for number, side in turns(range(len(sides)), pairs):
        out[side].append(sides[side](number))
        if all(len(blocks) > number for blocks in out):
            words = " | ".join(f"{b.rate:.2f} req/s {b.cpu / b.requests:.2f} CPU s" for b in (one[-1] for one in out))
            note(f"pair {number + 1}: {words}")
    return out


def rates(blocks: Sequence[Block]) -> list[float]:
    return [block.rate for block in blocks]


def per_cpu(blocks: Sequence[Block]) -> list[float]:
    """Requests per CPU second, which a busy machine disturbs less."""
    return [block.requests / block.cpu for block in blocks]
