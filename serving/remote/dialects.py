"""How servers that generate differ where OpenAI's API says nothing: adapters, prompts of ids, sampling beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field

BEYOND = frozenset({"top_k", "ignore_eos", "stop_token_ids"})
"""Fields of a completion that OpenAI does not have."""


@dataclass(frozen=True)
class Dialect:
    """One kind of server.

    Attributes:
        load, unload: routes that take an adapter in and throw it out, from the server's root; "" where there are none.
        listed: whether `/v1/models` lists the adapters that are loaded, with their folder as `root`.
        by_folder: whether an adapter is named by its folder, which is read when it is first asked for.
        with_base: whether an adapter is named behind its base, `base:adapter`.
        ids: whether a prompt may be token ids. A text is tokenised there, and is refused here where the ids that would
            come of it are others.
        scores: whether a completion's log probabilities are given.
        zero: whether a temperature of 0 may be sent; it is left out otherwise, where greedy is the default.
        fields: of `BEYOND` and of OpenAI's `seed` and `stream_options`, those that are understood.
    """

    load: str = ""
    unload: str = ""
    listed: bool = False
    by_folder: bool = False
    with_base: bool = False
    ids: bool = True
    scores: bool = True
    zero: bool = True
    fields: frozenset[str] = field(default=BEYOND | {"seed", "stream_options"})

    def model(self, base: str, adapter: str) -> str:
        """What `model` must be for an adapter."""
        return f"{base}:{adapter}" if self.with_base else adapter


DIALECTS = {
    "vllm": Dialect(load="/v1/load_lora_adapter", unload="/v1/unload_lora_adapter", listed=True),
    "sglang": Dialect(load="/load_lora_adapter", unload="/unload_lora_adapter", with_base=True),
    "lorax": Dialect(by_folder=True, ids=False, scores=False, zero=False, fields=frozenset({"top_k"})),
}
"""By the name that `serve.kind` has for them, as their documentation and sources say."""
