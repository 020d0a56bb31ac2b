"""The arms of `serving.py`: which load goes to which sides, and which figures come of it."""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import ratio

from serving_arms.load import Ask, Block, alike, in_turn, per_cpu, rates, s_lora
from serving_arms.own import Own, make_adapters
from serving_arms.promotion import Promotions
from serving_arms.rivals import Rival
from serving_arms.soak import COPIES, Soak


@dataclass(frozen=True)
class Sizes:
    """How much of each load; blocks are in requests.

    Attributes:
        short: bounds of tokens in and out.
        raft: tokens of a RAFT prompt with four passages, and of its answer.
        tiny: a random model of two layers in place of the one that is named.
        many, few: adapters of S-LoRA's arms; some: of the others.
        each: requests of a user.
    """

    tiny: bool
    short: tuple[int, int]
    raft: tuple[int, int]
    many: int
    few: int
    some: int
    s_lora: tuple[int, int]  # pairs, block
    s_lora_3: tuple[int, int]
    users: int
    each: int
    think_seconds: float
    lorax: int  # pairs
    peft: tuple[int, int]
    peft_raft: tuple[int, int]
    decode: tuple[int, int]  # pairs, tokens
    llama_cpp: tuple[int, int]
    prefix: int  # questions
    soak: tuple[int, int]  # requests, cycles of load and unload
    promotion: tuple[int, int]  # promotions and rollbacks, how many of them by command


WHOLE = Sizes(
    tiny=False,
    short=(8, 64),
    raft=(736, 48),
    many=1000,
    few=5,
    some=25,
    s_lora=(40, 50),
    s_lora_3=(40, 50),
    users=8,
    each=6,
    think_seconds=1.0,
    lorax=20,
    peft=(8, 24),
    peft_raft=(8, 16),
    decode=(8, 64),
    llama_cpp=(8, 32),
    prefix=12,
    soak=(20_000, 500),
    promotion=(100, 12),
)
QUICK = Sizes(
    tiny=True,
    short=(8, 32),
    raft=(100, 8),
    many=12,
    few=2,
    some=3,
    s_lora=(1, 12),
    s_lora_3=(1, 12),
    users=4,
    each=2,
    think_seconds=0.05,
    lorax=1,
    peft=(1, 4),
    peft_raft=(1, 4),
    decode=(1, 16),
    llama_cpp=(1, 8),
    prefix=2,
    soak=(90, 6),
    promotion=(4, 1),
)


class Bench:
    """What the arms share: the model, the adapters, and what was asked for on the command line."""

    def __init__(self, place: Path, sizes: Sizes, options: argparse.Namespace) -> None:
        self.place, self.sizes, self.options = place, sizes, options
        self._base: Path | None = None
        self._tiny: Path | None = None
        self._adapters: list[Path] = []
        self._rivals: list[Rival] = []

    @property
    def base(self) -> Path:
        if self.sizes.tiny:
            return self.tiny_base
        if self._base is None:
            from tasks.inputs.models import resolve

            self._base = resolve(self.options.model).folder
        return self._base

    @property
    def tiny_base(self) -> Path:
        if self._tiny is None:
            from miniature import write_base

            self._tiny = write_base(self.place / "tiny")
        return self._tiny

    def adapters(self, count: int) -> list[Path]:
        """Folders of the first `count` adapters, made when they are asked for."""
        have, rank = len(self._adapters), self.options.rank
        if have < count:
            root = (self.options.adapters or self.place / "adapters") / f"rank-{rank}"
            self._adapters += make_adapters(self.base, root, range(have, count), rank)
        return self._adapters[:count]

    @property
    def span(self) -> tuple[int, int]:
        """Tokens in and out of a short request at most."""
        return self.sizes.short[1], self.sizes.short[1]

    @contextlib.contextmanager
    def own(self, adapters: int, tokens: tuple[int, int], prefix_mib: int = 0) -> Iterator[Own]:
        """An engine for requests of up to so many tokens in and out."""
        own = Own(
            self.base,
            self.adapters(adapters),
            rows=self.options.rows,
            rank=self.options.rank if adapters else 0,
            longest=sum(tokens),
            adapter_bytes=self.options.adapter_memory << 20,
            prefix_bytes=prefix_mib << 20,
        )
        try:
            yield own
        finally:
            own.close()

    @contextlib.contextmanager
    def rival(self, kind: str, **job: Any) -> Iterator[Rival]:
        rival = Rival(kind, {"model": str(self.base), **job}, self.place)
        try:
            yield rival
        finally:
            rival.close()

    def pairs(self, own: int) -> int:
        """Of an arm that has so many of its own."""
        return self.options.pairs or own


def note(words: str) -> None:
    print(words, flush=True)


def summary(own: Own, ours: list[Block], theirs: list[Block]) -> dict[str, Any]:
    """The ratio of requests per second, per CPU second, and what went wrong."""
    return {
        "requests_per_second": ratio(rates(ours), rates(theirs)),
        "requests_per_cpu_second": ratio(per_cpu(ours), per_cpu(theirs)),
        "ours": round(statistics.median(rates(ours)), 3),
        "theirs": round(statistics.median(rates(theirs)), 3),
        "lost": own.lost,
        "compiles": own.compiles,
    }


def s_lora_arm(bench: Bench, alpha: float, size: tuple[int, int], key: str) -> dict[str, Any]:
    many, few, (pairs, count) = bench.sizes.many, bench.sizes.few, size
    asked: set[int | None] = set()
    with bench.own(many, bench.span) as own:

        def block(pair: int, adapters: int) -> Block:
            asks = s_lora(count, adapters, alpha, pair, own.vocab, bench.sizes.short)
            if adapters == many:
                asked.update(ask.adapter for ask in asks)
                before = own.asked()
            out = own.saturate(asks, listen=True)
            if adapters == many:
                hits.append(own.hit_rates(before))
            return out

        hits: list[dict[str, float]] = []
        ours, theirs = in_turn([partial(block, adapters=many), partial(block, adapters=few)], bench.pairs(pairs), note)
        result = summary(own, ours, theirs)
    result |= {
        "adapters": {"many": many, "few": few, "asked": len(asked), "requests": sum(b.requests for b in ours)},
        "hit_rates": {name: round(statistics.mean(one[name] for one in hits), 3) for name in hits[0]},
        "slots": bench.options.rows,
        "median_first_token_ms": {
            name: round(1000 * statistics.median(t for b in blocks for t in b.first))
            for name, blocks in (("many", ours), ("few", theirs))
        },
        "figures": {key: result["requests_per_second"]["ratio"]},
    }
    return result


def lorax_arm(bench: Bench) -> dict[str, Any]:
    sizes = bench.sizes
    with bench.own(sizes.some, bench.span) as own:

        def block(pair: int, adapters: int) -> Block:
            asks = s_lora(sizes.users * sizes.each, adapters, 1.0, pair, own.vocab, sizes.short)
            return own.users([asks[user :: sizes.users] for user in range(sizes.users)], sizes.think_seconds)

        sides = [partial(block, adapters=sizes.some), partial(block, adapters=1)]
        some, one = in_turn(sides, bench.pairs(sizes.lorax), note)
        result = summary(own, some, one)
    first = [[statistics.median(block.first) for block in blocks] for blocks in (some, one)]
    result["first_token"] = ratio(*first)
    result["median_first_token_ms"] = [round(1000 * statistics.median(side)) for side in first]
    result["figures"] = {
        "ttft_25_over_1": result["first_token"]["ratio"],
        "throughput_25_over_1": result["requests_per_second"]["ratio"],
    }
    return result


def peft_arm(bench: Bench, raft: bool, size: tuple[int, int], key: str) -> dict[str, Any]:
    some, (pairs, count) = bench.sizes.some, size
    tokens = bench.sizes.raft if raft else bench.span
    folders = [str(folder) for folder in bench.adapters(some)]
    with bench.own(some, tokens) as own, bench.rival("peft", adapters=folders) as rival:

        def asks(pair: int) -> list[Ask]:
            if raft:
                return alike(count, *tokens, adapters=some, seed=pair, vocab=own.vocab)
            return s_lora(count, some, 1.0, pair, own.vocab, bench.sizes.short)

        rival.run(asks(0)[:1])
        sides = [lambda pair: own.saturate(asks(pair)), lambda pair: rival.run(asks(pair))]
        ours, theirs = in_turn(sides, bench.pairs(pairs), note)
        result = summary(own, ours, theirs)
    return {**result, "figures": {key: result["requests_per_second"]["ratio"]}}


def decode_arm(bench: Bench) -> dict[str, Any]:
    """Tokens/s of decoding: the time of a whole block less that of one for a single token of each prompt."""
    (pairs, new), rows = bench.sizes.decode, bench.options.rows
    with bench.own(1, (bench.sizes.short[1], new + 1)) as own, bench.rival("transformers") as rival:

        def block(pair: int, run: Callable[[list[Ask]], Block]) -> Block:
            first, whole = (run(alike(rows, bench.sizes.short[1], n, 0, pair, own.vocab)) for n in (1, new + 1))
            return Block(whole.seconds - first.seconds, whole.cpu - first.cpu, rows * new, rows * new)

        block(0, rival.run)
        sides = [partial(block, run=own.saturate), partial(block, run=rival.run)]
        ours, theirs = in_turn(sides, bench.pairs(pairs), note)
        result = summary(own, ours, theirs)
    names = {"requests_per_second": "tokens_per_second", "requests_per_cpu_second": "tokens_per_cpu_second"}
    result = {names.get(name, name): value for name, value in result.items()}
    return {**result, "figures": {"decode_over_transformers": result["tokens_per_second"]["ratio"]}}


def llama_cpp_arm(bench: Bench) -> dict[str, Any]:
    from jora_engine.adapters.merged_model import write_merged
    from jora_engine.adapters.peft_folder import read_adapter
    from jora_engine.files.gguf_writer import write_gguf
    from jora_engine.files.weights import read_model_config
    from jora_engine.generation.llama_cpp import available

    if not available():
        return {"left_out": "llama.cpp is not installed: pip install 'jora-raft[llama-cpp]'"}
    pairs, count = bench.sizes.llama_cpp
    model, (folder,) = read_model_config(bench.base), bench.adapters(1)
    lora, config = read_adapter(folder, model)
    merged = write_merged(bench.base, lora, config, model, bench.place / "merged")
    gguf = write_gguf(merged, bench.place / "merged.gguf", "bfloat16")
    tokens = bench.span
    job = {"gguf": str(gguf), "rows": bench.options.rows, "longest": sum(tokens) + 8}
    with bench.own(1, tokens) as own, bench.rival("llama_cpp", **job) as rival:

        def asks(pair: int) -> list[Ask]:
            return s_lora(count, 1, 1.0, pair, own.vocab, bench.sizes.short)

        rival.run(asks(0)[:1])
        sides = [lambda pair: own.saturate(asks(pair)), lambda pair: rival.run(asks(pair))]
        ours, theirs = in_turn(sides, bench.pairs(pairs), note)
        result = summary(own, ours, theirs)
    return {**result, "figures": {"over_llama_cpp": result["requests_per_second"]["ratio"]}}


def prefix_arm(bench: Bench) -> dict[str, Any]:
    tokens = bench.sizes.raft
    with bench.own(1, tokens, prefix_mib=512) as own:
        first, again = [], []
        for number in range(bench.pairs(bench.sizes.prefix)):
            (ask,) = alike(1, tokens[0], 2, 1, number, own.vocab)
            first.append(own.first_token(ask))
            again.append(own.first_token(ask))
            note(f"question {number + 1}: {1000 * first[-1]:.0f} ms, again {1000 * again[-1]:.0f} ms")
        repeated = ratio(again, first)
        result = {"first_token": repeated, "lost": own.lost, "compiles": own.compiles}
    result["median_ms"] = [round(1000 * statistics.median(of)) for of in (first, again)]
    return {**result, "figures": {"prefix_ttft": repeated["ratio"]}}


def soak_arm(bench: Bench) -> dict[str, Any]:
    from data.prompting.contract import load_template, prompt_contract

    extra = {"prompt": prompt_contract(load_template(), passages=2, may_refuse=True)}
    place = bench.place / "soak"
    place.mkdir()
    adapters = make_adapters(bench.tiny_base, place / "adapters", range(COPIES), 4, extra=extra, size=0.2)
    result = Soak(place, bench.tiny_base, adapters, *bench.sizes.soak).run()
    return {**result, "figures": {"memory_growth": result["memory_growth"]}}


def promotion_arm(bench: Bench) -> dict[str, Any]:
    from data.prompting.contract import load_template, prompt_contract

    extra = {"prompt": prompt_contract(load_template(), passages=2, may_refuse=True)}
    place = bench.place / "promotion"
    place.mkdir()
    rank = bench.options.rank
    adapters = make_adapters(bench.base, place / "adapters", range(COPIES), rank, extra=extra, size=0.05)
    # in bfloat16 two sums of other order may give another word, which would be taken for another version's
    longest = 100 if bench.sizes.tiny else 600  # the longer, the more programs are compiled before it serves
    job = {"rows": bench.options.rows, "dtype": "float32", "longest": longest, "prefix_bytes": 64 << 20}
    return Promotions(place, bench.base, adapters, *bench.sizes.promotion, **job).run()


def routing_arm(bench: Bench) -> dict[str, Any]:
    from serving_arms.routing import routing

    return routing(bench.options.data, bench.place, quick=bench.sizes.tiny)


def routing_f1_arm(bench: Bench) -> dict[str, Any]:
    from serving_arms.routing_f1 import routing_f1

    work = (bench.options.adapters or bench.place / "adapters") / "routing_f1"
    base = str(bench.tiny_base) if bench.sizes.tiny else bench.options.model
    return routing_f1(bench.options.data, work, base, quick=bench.sizes.tiny)


ARMS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "s_lora": lambda bench: s_lora_arm(bench, 1.0, bench.sizes.s_lora, "throughput_1000_over_5"),
    "s_lora_3": lambda bench: s_lora_arm(bench, 0.3, bench.sizes.s_lora_3, "throughput_1000_over_5_skewed"),
    "lorax": lorax_arm,
    "peft": lambda bench: peft_arm(bench, False, bench.sizes.peft, "over_peft_switching"),
    "peft_raft": lambda bench: peft_arm(bench, True, bench.sizes.peft_raft, "over_peft_raft"),
    "decode": decode_arm,
    "llama_cpp": llama_cpp_arm,
    "prefix": prefix_arm,
    "soak": soak_arm,
    "promotion": promotion_arm,
    "routing": routing_arm,
    "routing_f1": routing_f1_arm,
}
PARTS: dict[str, tuple[str, ...]] = {
    "engine": tuple(name for name in ARMS if name not in ("promotion", "routing", "routing_f1")),
    "promotion": ("promotion",),
    "routing": ("routing", "routing_f1"),
}
"""Arms that are measured together."""
QUICK_ARMS = tuple(name for name in ARMS if name not in ("s_lora_3", "peft_raft"))
"""Those of --quick: without arms that are another's with other numbers."""
