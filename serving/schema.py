"""What the routes take: the fields of the OpenAI API that have a meaning here, those that are let pass, and those that
are refused by name because ignoring them would answer another question."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from serving.errors import ApiError

MAX_MESSAGES, MAX_STOPS, MAX_STOP_CHARACTERS = 256, 8, 200
MAX_INPUTS = 2048  # texts to embed in one request, as OpenAI has it
TEXT_PARTS = ("text", "input_text", "output_text")

NEUTRAL: dict[str, Any] = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "length_penalty": 1,
    "typical_p": 1,
    "min_p": 0,
    "min_tokens": 0,
    "best_of": 1,
    "add_generation_prompt": True,
    "add_special_tokens": True,
    "include_stop_str_in_output": False,
}
"""Fields that other servers know beside OpenAI's, each with the value that changes nothing; any other is refused."""

FOREIGN = (
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "echo",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "grammar",
    "logits_processors",
    "prompt_logprobs",
    "stop_token_ids",
    "structured_outputs",
    "use_beam_search",
    "web_search_options",
)
"""Fields that would change an answer and are not supported, on whatever route; empty they change nothing."""

Sources = Literal["annotations", "text", "open_webui", "passages"]
"""Where citations stand beside `annotations`: nowhere, as lines at the end of the text, as Open WebUI's events, or with
the passages themselves as this server's own page shows them."""

Some = TypeVar("Some", bound=BaseModel)


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 100.0 is the whole number that it looks like."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
Number = Annotated[float, Strict()]
Switch = Annotated[bool, Strict()]
"""Fields are of the kind that JSON has for them: true is no 1, "0.5" no number and "yes" no true."""


def _joined(content: Any) -> Any:
    """Content in parts as one text, joined by line breaks; only text is taken."""
    if not isinstance(content, list):
        return content
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else None for part in content
    ]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("only parts of type text are supported")
    return "\n".join(texts)  # type: ignore[arg-type]


class Fields(BaseModel):
    """What a request holds. A field that is null is as one that is absent: many clients have a place for each."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name not in cls.model_fields}


class Message(Fields):
    """One turn."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: Any) -> Any:
        return _joined(content)


class StreamOptions(Fields):
    """`include_usage` asks for one chunk with the usage at the end."""

    model_config = ConfigDict(extra="allow")
    include_usage: Switch = False


class TextRequest(Fields):
    """What all routes that write text have in common: the model, how it is sampled, how the answer is given.

    Attributes:
        text_field: the field that holds the text, for messages.
        refused: fields that would change the answer and are not supported, beside `FOREIGN`; null, false, empty and
            absent are the same.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    text_field: ClassVar[str]
    refused: ClassVar[tuple[str, ...]] = ("logit_bias", "adapter_source")

    model: str = Field(min_length=1, max_length=200)
    adapter_id: str | None = Field(None, max_length=200)
    max_tokens: Whole | None = Field(None, ge=1)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=-1)
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[str] = []
    stream: Switch = False
    stream_options: StreamOptions | None = None
    n: Whole = 1
    ignore_eos: Switch = False
    copy_quotes: Switch | None = None
    sources: Sources | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop
        if isinstance(stops, list) and (
            len(stops) > MAX_STOPS or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARACTERS for s in stops)
        ):
            raise ValueError(f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters")
        return stops

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """LoRAX's `adapter_id` alone says which model is meant."""
        if isinstance(values, dict) and values.get("model") is None and values.get("adapter_id"):
            return {**values, "model": values["adapter_id"]}
        return values

    @model_validator(mode="after")
    def _supported(self) -> TextRequest:
        extra = self.model_extra or {}
        for name in (*self.refused, *FOREIGN):
            if extra.get(name):
                raise ValueError(f"{name}: not supported")
        for name, neutral in NEUTRAL.items():
            value = extra.get(name)
            changes = value is not None and (value != neutral or isinstance(value, bool) != isinstance(neutral, bool))
            if changes and name not in type(self).model_fields:
                raise ValueError(f"{name}: not supported; only {neutral} is")
        if extra.get("tools") and extra.get("tool_choice") != "none":
            raise ValueError("tools: not supported")
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
        return self.max_tokens

    @property
    def turns(self) -> list[Message]:
        """The messages; of a text that is no chat, the text as the user's."""
        raise NotImplementedError

    @property
    def question(self) -> str | None:
        """The last message, where it is the user's."""
        last = self.turns[-1]
        return last.content if last.role == "user" else None

    @property
    def unheard(self) -> tuple[str, ...]:
        """The parts that a question alone leaves out: `system`, `history`."""
        system = sum(message.role in ("system", "developer") for message in self.turns)
        return (*(("system",) if system else ()), *(("history",) if len(self.turns) - system > 1 else ()))

    @property
    def scored(self) -> int | None:
        """Alternatives wanted at every token, 0 for the token's own log probability alone, None for nothing."""
        return None

    @property
    def with_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(TextRequest):
    """A checked request of `/v1/chat/completions`."""

    text_field: ClassVar[str] = "messages"
    refused: ClassVar[tuple[str, ...]] = (*TextRequest.refused, "functions", "audio", "modalities", "prediction")
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Whole | None = Field(None, ge=1)
    logprobs: Switch = False
    top_logprobs: Whole | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _scored(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs")
        return self

    @model_validator(mode="after")
    def _plain_text(self) -> ChatRequest:
        form = (self.model_extra or {}).get("response_format")
        if form and (not isinstance(form, dict) or form.get("type", "text") != "text"):
            raise ValueError("response_format: only text is supported")
        return self

    @property
    def turns(self) -> list[Message]:
        return self.messages

    @property
    def new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def scored(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(TextRequest):
    """A checked request of `/v1/completions`: one text."""

    text_field: ClassVar[str] = "prompt"
    refused: ClassVar[tuple[str, ...]] = (*TextRequest.refused, "echo", "suffix")
    prompt: str = Field(min_length=1)
    logprobs: Whole | None = Field(None, ge=0, le=20)
    best_of: Whole | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, prompt: Any) -> Any:
        if isinstance(prompt, list):
            if len(prompt) != 1 or not isinstance(prompt[0], str):
                raise ValueError("one text is supported, no list of several and no token ids")
            return prompt[0]
        return prompt

    @model_validator(mode="after")
    def _best(self) -> CompletionRequest:
        if (self.best_of or 1) != 1:
            raise ValueError("best_of: only 1 is supported")
        return self

    @property
    def turns(self) -> list[Message]:
        return [Message(role="user", content=self.prompt)]

    @property
    def scored(self) -> int | None:
        return self.logprobs


class Item(Message):
    """One item of a `/v1/responses` input."""

    type: Literal["message"] = "message"


class ResponsesRequest(TextRequest):
    """A checked request of `/v1/responses`: nothing is kept between two of them."""

    text_field: ClassVar[str] = "input"
    refused: ClassVar[tuple[str, ...]] = (
        *TextRequest.refused,
        "previous_response_id",
        "conversation",
        "background",
        "prompt",
        "top_logprobs",
    )
    input: list[Item] = Field(min_length=1, max_length=MAX_MESSAGES)
    instructions: str | None = None
    max_output_tokens: Whole | None = Field(None, ge=1)

    @field_validator("input", mode="before")
    @classmethod
    def _items(cls, value: Any) -> Any:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _plain_text(self) -> ResponsesRequest:
        text = (self.model_extra or {}).get("text")
        form = text.get("format") if isinstance(text, dict) else text
        if form and (not isinstance(form, dict) or form.get("type", "text") != "text"):
            raise ValueError("text: only the format text is supported")
        if "message.output_text.logprobs" in str((self.model_extra or {}).get("include")):
            raise ValueError("include: no log probabilities here; chats and completions have them")
        return self

    @property
    def new_tokens(self) -> int | None:
        return self.max_output_tokens or self.max_tokens

    @property
    def turns(self) -> list[Message]:
        """The items, with the instructions as a system message before them."""
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        return [*system, *self.input]


class EmbeddingsRequest(Fields):
    """A checked request of `/v1/embeddings`.

    Attributes:
        input_type: which of the embedder's prompts goes before the texts; most embedders have none.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    model: str = Field(min_length=1, max_length=200)
    input: list[str] = Field(min_length=1, max_length=MAX_INPUTS)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Whole | None = Field(None, ge=1)
    input_type: Literal["query", "passage"] = "passage"

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and isinstance(texts[0], int | list):
            raise ValueError("texts are taken, no token ids (LangChain: check_embedding_ctx_length=False)")
        if isinstance(texts, list) and not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("every text must be a string that is not empty")
        return texts


def read(kind: type[Some], values: Any) -> Some:
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
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        param = ".".join(map(str, first["loc"])) or message.split(":")[0]
        shown = message if message.startswith(param) else f"{param}: {message}"
        raise ApiError(400, shown, code="invalid_value", param=param) from None
