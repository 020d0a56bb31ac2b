"""What `/v1/chat/completions` takes: the fields of the OpenAI API that have a meaning here, those that are let pass,
and those that are refused by name because ignoring them would answer another question."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serving.errors import ApiError

MAX_MESSAGES, MAX_STOPS, MAX_STOP_CHARACTERS = 256, 8, 200
REFUSED = ("functions", "audio", "logit_bias", "modalities", "prediction", "adapter_source")
"""Fields that would change the answer and are not supported; null, empty and absent are the same."""


class Message(BaseModel):
    """One turn. Content in parts is joined by line breaks; only text is taken."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("only parts of type text are supported")
        return "\n".join(texts)  # type: ignore[arg-type]


class StreamOptions(BaseModel):
    """`include_usage` asks for one chunk with the usage at the end."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A checked request."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    model: str = Field(min_length=1, max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    n: int = 1
    ignore_eos: bool = False
    copy_quotes: bool = False
    adapter_id: str | None = Field(None, max_length=200)

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: Any) -> Any:
        stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and (
            len(stops) > MAX_STOPS or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARACTERS for s in stops)
        ):
            raise ValueError(f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters")
        return stops

    @field_validator("stream", "logprobs", "n", "ignore_eos", mode="before")
    @classmethod
    def _absent(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def _supported(self) -> ChatRequest:
        extra = self.model_extra or {}
        for name in REFUSED:
            if extra.get(name):
                raise ValueError(f"{name}: not supported")
        if extra.get("tools") and extra.get("tool_choice") != "none":
            raise ValueError("tools: not supported")
        kind = (extra.get("response_format") or {}).get("type", "text") if extra.get("response_format") else "text"
        if kind != "text":
            raise ValueError("response_format: only text is supported")
        if self.n != 1:
            raise ValueError("n: only 1 is supported")
        return self

    @property
    def name(self) -> str:
        """The model asked for; LoRAX's `adapter_id` stands before `model`, and is a name, never a path."""
        return self.adapter_id or self.model

    @property
    def new_tokens(self) -> int | None:
        """How many tokens are wanted at most."""
        return self.max_completion_tokens or self.max_tokens


def read_chat(values: Any) -> ChatRequest:
    """A request from parsed JSON.

    Raises:
        ApiError: 400, naming the first field at fault and never its value.
    """
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object", code="invalid_type")
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ApiError(400, f"{name}: must be a finite number", code="invalid_value", param=name)
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        param = ".".join(map(str, first["loc"])) or message.split(":")[0]
        shown = message if message.startswith(param) else f"{param}: {message}"
        raise ApiError(400, shown, code="invalid_value", param=param) from None
