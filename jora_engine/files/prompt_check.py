"""Whether a base's chat template can be trained with: its prompt must be how an answered chat begins.

Templates of models that think may open a block behind the prompt of generation alone; an answer that is trained there
is trained as a thought. What to set is tried out before it is proposed.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

from jora_engine.files.chat_template import GIVEN, variables_read
from jora_engine.files.tokenizer import AnswerForm, Tokenizer
from raft_errors import BadInput

_THOUGHT = re.compile(
    r"(?P<open>[<\[\u25c1{])(?P<name>[^<>\[\]{}\u25c1\u25b7\s]*(?:think|thought|reason)[^<>\[\]{}\u25c1\u25b7\s]*)"
    r"(?P<close>[>\]\u25b7}])",
    re.IGNORECASE,
)
"""`<think>`, `</think>`, `[THINK]`, `<|begin_of_thought|>`, `<|END_THINKING|>` and the like."""

_CLOSING = re.compile(r"/|\bend|_end", re.IGNORECASE)
_VALUES: tuple[Any, ...] = (False, True, "none", "off", "low")


def check_prompt(tokenizer: Tokenizer, base: str = "the base") -> list[str]:
    """What a person should know of the base's chat template, a sentence each.

    Args:
        base: the model's name, for messages.

    Raises:
        BadInput: a variable that the template does not read is set, or an answer would be trained where the template
            writes none; with what to set, where a setting mends it.
    """
    _check_variables(tokenizer, base)
    form = tokenizer.answer_form()
    if form is None:
        return []
    if fault := _fault(tokenizer, form):
        raise BadInput(
            f"The chat template of {base}: {fault}",
            expected="a prompt that is, token for token, how an answered chat begins, with no block of thoughts open",
            do=_remedy(tokenizer, form),
        )
    if not form.written.startswith(form.prompt):  # a closed block that answered chats lack
        return []
    between = form.written.removeprefix(form.prompt)
    if between.strip():
        setting = _setting_that(tokenizer, lambda other: other.written == other.prompt)
        advice = f"; models.chat_template: {setting} puts it into the prompt" if setting else ""
        return [
            f"The chat template of {base} writes {between!r} before an answer, which the records do not train{advice}"
        ]
    if not _tokens_begin(tokenizer, form):
        return [
            f"The chat template of {base} ends its prompt with {_end(form.prompt)!r}, inside what an answered "
            "chat reads as one token: it is trained and asked as it is, other trainers may cut it otherwise"
        ]
    return []


def _check_variables(tokenizer: Tokenizer, base: str) -> None:
    known = variables_read(tokenizer.chat_template, tokenizer.special)
    for name in tokenizer.variables:
        if name in known:
            continue
        raise BadInput(
            f"models.chat_template sets {name}, which the chat template of {base} "
            + ("gets with every prompt" if name in (*GIVEN, *tokenizer.special) else "does not read"),
            expected="one of " + ", ".join(known) if known else "no variable: this template reads none",
            do="correct models.chat_template",
        )


def _fault(tokenizer: Tokenizer, form: AnswerForm) -> str:
    """What is wrong with training behind this prompt, in words, or ""."""
    prompt = form.prompt + tokenizer.prefill
    if _opened(prompt):
        return f"its prompt ends with {_end(prompt)!r}, so that answers would be trained inside a block that stays open"
    if form.written.startswith(form.prompt):
        return ""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(form.prompt, form.written))
    rest = prompt[sum(1 for _ in same) :]
    marks = list(_THOUGHT.finditer(rest))
    if marks and not rest[marks[-1].end() :].strip():
        return ""  # the prompt closes the block itself, and the answer stands behind it
    return (
        f"its prompt ends with {_end(form.prompt)!r}, and an answered chat goes on with {_end(form.written)!r} instead"
    )


def _tokens_begin(tokenizer: Tokenizer, form: AnswerForm) -> bool:
    """Whether the prompt is how the answered chat begins, token for token."""
    question, answer = "Probe question.", "Probe answer."
    prompt = tokenizer.encode(form.before + question + form.prompt, add_special_tokens=False)
    whole = tokenizer.encode(form.before + question + form.written + answer, add_special_tokens=False)
    return whole[: len(prompt)] == prompt


def _opened(text: str) -> bool:
    """Whether the last mark of a block of thoughts in a text opens one."""
    marks = list(_THOUGHT.finditer(text))
    return bool(marks) and not _CLOSING.search(marks[-1]["name"])


def _remedy(tokenizer: Tokenizer, form: AnswerForm) -> str:
    if setting := _setting_that(tokenizer, lambda _: True):
        return f"set models.chat_template: {setting}"
    prompt = form.prompt + tokenizer.prefill
    if _opened(prompt):
        mark = list(_THOUGHT.finditer(prompt))[-1]
        return f"set models.prefill: {_prefill(mark)!r}, which closes the block before the answer"
    return "give the base a chat template (chat_template.jinja) that writes one prompt before every answer"


def _setting_that(tokenizer: Tokenizer, wanted: Any) -> str:
    """The first variable and value, as YAML writes them, with which the prompt is right and its form as `wanted`."""
    for name, value, other in _others(tokenizer):
        form = other.answer_form()
        if form is not None and not _fault(other, form) and wanted(form):
            return f"{{{name}: {str(value).lower()}}}"
    return ""


def _others(tokenizer: Tokenizer) -> Iterator[tuple[str, Any, Tokenizer]]:
    for name in variables_read(tokenizer.chat_template, tokenizer.special):
        for value in _VALUES:
            variables = {**tokenizer.variables, name: value}
            yield name, value, dataclasses.replace(tokenizer, variables=variables)


def _prefill(mark: re.Match[str]) -> str:
    """What closes the block that a mark opens."""
    name = mark["name"]
    for begin, end in (("begin", "end"), ("start", "end"), ("BEGIN", "END"), ("START", "END")):
        if begin in name:
            return f"\n{mark['open']}{name.replace(begin, end)}{mark['close']}\n\n"
    return f"\n{mark['open']}/{name}{mark['close']}\n\n"


def _end(text: str) -> str:
    return text if len(text) <= 60 else "…" + text[-60:]
