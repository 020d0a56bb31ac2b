"""The section `serve`: what `raft serve` is told by the configuration; of a file of domains, alike in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator, model_validator

from data.teachers.address import web_parts
from raft_errors import BadInput
from tasks.build.section import Section, setting


class ServeConfig(Section):
    """Who generates, and how `auto` and `mix` choose adapters. Nothing of it changes what a run makes."""

    engine: Literal["own", "openai"] = setting(
        "own",
        "Who generates: this program, or openai = another server with that API; retrieval, prompts and citations stay "
        "here",
        result=False,
        from_outside=False,
    )
    kind: Literal["vllm", "sglang", "lorax"] = setting(
        "vllm", "With engine openai: what that server is", result=False, from_outside=False
    )
    url: str | None = setting(
        None, "With engine openai: its address, such as http://127.0.0.1:8001/v1, without a key in it", result=False
    )
    model: str | None = setting(
        None, "The base's name on that server; null = the one that it lists", result=False, min_length=1
    )
    key_variable: str = setting(
        "RAFT_ENGINE_KEY", "Environment variable that holds the key of that server; unset = none", result=False
    )
    store_there: str | None = setting(
        None, "The folder of the store as that server sees it; null = under the path it has here", result=False
    )
    load_seconds: int = setting(
        120, "That server may take so long to load an adapter", unit="seconds", ge=1, le=3600, result=False
    )
    auto_miss: float = setting(
        0.01,
        "Share of a domain's own held-out questions that auto may send to the base; this decides how near a question "
        "must be to a domain",
        ge=0,
        le=0.5,
        result=False,
    )
    mix: int = setting(
        0,
        "Adapters that the model mix adds up at most; their ranks need room in every slot, so 0 = there is no mix",
        unit="adapters",
        ge=0,
        le=8,
        result=False,
    )

    @field_validator("mix")
    @classmethod
    def _several(cls, mix: int) -> int:
        if mix == 1:
            raise ValueError("one adapter is no mixture: 0, or 2 and more")
        return mix

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = web_parts(url)
        if parts is None:
            raise ValueError("no web address: http:// or https:// with a host")
        if parts.username or parts.password or parts.query:
            raise ValueError("it holds a password or key: put that into the environment (serve.key_variable)")
        return url.strip()

    @model_validator(mode="after")
    def _whole(self) -> ServeConfig:
        if self.engine == "openai" and self.url is None:
            raise ValueError("engine openai needs the address of that server (serve.url)")
        if self.engine == "openai" and self.mix:
            raise ValueError("another server adds up no adapters: mix must be 0 with engine openai")
        return self


def one_for_all(sections: Mapping[str, ServeConfig]) -> ServeConfig:
    """The section of several domains on one server.

    Raises:
        BadInput: two of them differ.
    """
    first, section = next(iter(sections.items()))
    for name, other in sections.items():
        for field in type(section).model_fields:
            if getattr(other, field) != getattr(section, field):
                raise BadInput(
                    f"serve.{field} is one thing for {first} and another for {name}, and they are served together",
                    expected="one section `serve` for all domains",
                    do="write it under `common`",
                )
    return section
