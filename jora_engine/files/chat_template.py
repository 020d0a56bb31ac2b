"""Chat templates as text: rendering as transformers does, the variables that a template reads, its fixed date.

Templates are programs that came with a model, so they run in a sandbox. Knows nothing of tokens.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raft_errors import BadInput

log = logging.getLogger("raft.jora_engine")

FALLBACK_NAME = "alpaca"
FALLBACK_TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day on which chat templates that print one are rendered, for ever: a model must be asked as it was trained, and a
training that is gone on with tomorrow must see today's prompts. It is the date that Llama 3's own template falls back
to. Changing it makes every adapter of a dated base one that was trained for another prompt."""

GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")
"""What every rendering gives a template; no variable can have one of these names."""

_DATE_CALL = re.compile(r"""\bstrftime_now\(\s*(?:format\s*=\s*)?(['"])([^'"\\]*)\1\s*\)""")

Message = Mapping[str, str]


def render_chat(
    source: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    special: Mapping[str, str],
    variables: Mapping[str, Any],
    today: datetime.date,
) -> str:
    """The template filled in.

    Args:
        special: special tokens by name (`bos_token`, ...).
        variables: what the template reads besides (`enable_thinking`).

    Raises:
        BadInput: the template rejects the messages or is not valid Jinja.
    """
    if not messages:
        raise BadInput("no messages for the chat template", expected="at least one", do="give a message")
    rows = [{k: v for k, v in message.items() if v is not None} for message in messages]
    values = {**special, **variables, "messages": rows, "add_generation_prompt": add_generation_prompt}
    try:
        return _compile(source, today).render(**{"tools": None, "documents": None, **values})
    except jinja2.TemplateError as error:
        raise BadInput(
            f"the model's chat template failed ({error})",
            expected="roles and turns in the order that the template accepts",
            do="check the messages, or the template in tokenizer_config.json or chat_template.jinja",
        ) from error


def variables_read(source: str, special: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Names of the variables that a template reads and a rendering does not give by itself: its switches."""
    environment = _environment()
    try:
        tree = environment.parse(source)
        names = jinja2.meta.find_undeclared_variables(tree)
    except jinja2.TemplateError:
        return ()  # rendering says what is wrong with it
    own = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
    asked_for = {
        test.node.name
        for test in tree.find_all(jinja2.nodes.Test)
        if test.name in ("defined", "undefined") and isinstance(test.node, jinja2.nodes.Name)
    }  # `if not x is defined: set x`: the caller may give it
    known = {*GIVEN, *environment.globals, *_SPECIAL_NAMES, *(special or {})}
    return tuple(sorted(names - known - (own - asked_for)))


def with_defaults(source: str, variables: Mapping[str, Any], prefill: str = "") -> str:
    """The template as other programs need it to write the same prompts without being told the variables.

    Each variable gets its value where the caller gives none, and `prefill` follows the generation prompt.
    """
    head = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in sorted(variables.items())
    )
    if prefill:  # Jinja drops one newline at the end of a template
        source = source.removesuffix("\n") + f"{{{{ {_literal(prefill)} if add_generation_prompt else '' }}}}"
    return f"{head}\n{source}" if head else source  # the newline behind a block is dropped, too


def is_dated(template: str) -> bool:
    """Whether what a chat template writes depends on the day."""
    return "strftime_now" in template


def with_fixed_date(template: str, today: datetime.date = TEMPLATE_DATE) -> str:
    """The chat template with each `strftime_now("...")` replaced by the date it gives, so that any program renders it
    as the engine does. A call whose format is not written out stays, with a warning."""
    fixed = _DATE_CALL.sub(lambda call: json.dumps(today.strftime(call[2]), ensure_ascii=False), template)
    if re.search(r"\bstrftime_now\s*\(", fixed):
        log.warning(
            "the chat template computes how it prints the date: other programs print the day they run, this one %s",
            today.isoformat(),
        )
    return fixed


_SPECIAL_NAMES = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    "additional_special_tokens",
)


def _literal(value: Any) -> str:
    """A JSON value as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


@functools.lru_cache(maxsize=16)
def _compile(source: str, today: datetime.date) -> jinja2.Template:
    """A template in transformers' sandbox: same options, filters and globals."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        # Jinja's own filter escapes HTML characters, which would change the prompt
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format: str) -> str:  # transformers' name for it
        return today.strftime(format)

    environment = _environment()
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for transformers' masks; here it only has to be accepted."""

    tags = {"generation"}  # noqa: RUF012  Jinja's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
