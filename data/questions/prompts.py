"""Prompts as template files: one jinja2 file a prompt, one block a message, versioned by the hash of the file.

A block's name is its role, with a suffix where a role speaks more than once: `system`, `user_1`, `assistant_1`, `user`.
Users override a file by putting one of the same name into a folder of their own. Knows no teacher.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox

from data.nouns import text_sha256
from data.questions.options import QuestionOptions
from data.teachers.protocol import Messages
from raft_errors import BadInput

OWN_TEMPLATES = Path(__file__).parent / "templates"
_ROLE = re.compile(r"(system|user|assistant)(?:_\d+)?")


@dataclass(frozen=True)
class Prompt:
    """A prompt template; `version` is 12 hex digits of its content's sha256."""

    name: str
    version: str
    template: jinja2.Template

    def messages(self, **slots: Any) -> Messages:
        """The chat that the template makes of the slots; empty messages are left out."""
        context = self.template.new_context(slots)
        messages: Messages = []
        for block, render in self.template.blocks.items():
            try:
                content = "".join(render(context)).strip()
            except jinja2.TemplateError as error:
                raise BadInput(f"template {self.name}.jinja cannot be filled in: {error}", do="correct it") from error
            if content:
                messages.append({"role": block.split("_")[0], "content": content})
        return messages


def load_prompt(
    name: str, *, slots: tuple[str, ...], folder: Path | None = None, known: tuple[str, ...] | None = None
) -> Prompt:
    """Reads `<name>.jinja` from `folder` if it is there, else the one that ships with the project.

    Args:
        slots: those that it must use. known: all that it may use; None leaves that to the moment it is filled in.

    Raises:
        BadInput: the file cannot be read or does not parse, has no user message, or lacks or invents a slot.
    """
    path = OWN_TEMPLATES / f"{name}.jinja"
    if folder is not None:
        if not folder.is_dir():
            raise BadInput(f"no template folder {folder}", do="correct the path or leave the setting out")
        own = folder / f"{name}.jinja"
        path = own if own.is_file() else path
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"template {path} cannot be read ({error})", expected="a UTF-8 text file") from error
    env = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        used = _slots(env, source)
        template = env.from_string(source)
    except jinja2.TemplateError as error:
        raise BadInput(f"template {path}: {error}", expected="a jinja2 template", do="correct it") from error
    if missing := [slot for slot in slots if slot not in used]:
        raise BadInput(
            f"template {path} lacks the slot {missing[0]}",
            expected="the slots " + ", ".join("{{ " + slot + " }}" for slot in slots),
            do="put it in",
        )
    invented = [slot for slot in sorted(used - {*(known or used)}) if f"{slot} is defined" not in source]
    if invented:
        raise BadInput(
            f"template {path} uses the slot {invented[0]}, which nothing fills",
            expected="none but " + ", ".join("{{ " + slot + " }}" for slot in known or ()),
            do="correct it",
        )
    if strange := [block for block in template.blocks if not _ROLE.fullmatch(block)] or ("user" not in template.blocks):
        raise BadInput(
            f"template {path}: "
            + (f"no message is called {strange[0]}" if isinstance(strange, list) else "no user message"),
            expected="blocks named system, user, assistant, with _1, _2 for examples",
        )
    return Prompt(name, text_sha256(source)[:12], template)


def _slots(env: jinja2.Environment, source: str) -> set[str]:
    from jinja2 import meta

    return set(meta.find_undeclared_variables(env.parse(source)))


_OWN_PROMPTS = {"comparison": ("text", "other_text"), "unanswerable": ("text",)}
"""Kinds whose question has a prompt of its own, and the slots that it must use."""

_ASKED = ("kind", "number")  # slots of every prompt that asks for a question


@dataclass(frozen=True)
class Prompts:
    """The templates of one style: `asking` by kind (`""` for those without one of their own), `answering` for full."""

    asking: dict[str, Prompt]
    answering: Prompt | None
    reasoning: Prompt
    examples: dict[str, Any]
    version: str


def load_prompts(options: QuestionOptions) -> Prompts:
    """The templates that the options ask for.

    Raises:
        BadInput: a template of the user's own cannot be used.
    """
    folder, small = options.templates, options.style == "small"
    slots = ("statement", "answer") if small else ("text",)
    known = (*slots, "examples", *_ASKED) if small else (*slots, "title", *_ASKED)
    asking = {"": load_prompt(f"{options.style}/question", slots=slots, folder=folder, known=known)}
    for kind, needed in _OWN_PROMPTS.items():
        if kind in options.kinds:
            more = ("title", "other_title", *_ASKED)
            asking[kind] = load_prompt(f"full/{kind}", slots=needed, folder=folder, known=(*needed, *more))
    reasoning = load_prompt("reasoning", slots=(), folder=folder, known=("title", "asks"))
    answering: Prompt | None = None
    examples: dict[str, Any] = {}
    if small:
        examples, second = _examples(folder)
    else:
        shown = ("text", "question")
        answering = load_prompt("full/answer", slots=shown, folder=folder, known=(*shown, "title", "structured"))
        second = answering.version
    versions = "".join(prompt.version for prompt in asking.values())
    return Prompts(asking, answering, reasoning, examples, text_sha256(versions + second + reasoning.version)[:12])


def _examples(folder: Path | None) -> tuple[dict[str, list[list[str]]], str]:
    path = OWN_TEMPLATES / "small" / "examples.json"
    if folder is not None and (folder / "small" / "examples.json").is_file():
        path = folder / "small" / "examples.json"
    source = path.read_text(encoding="utf-8")
    kinds = ("definition", "condition", "reason", "duty", "action", "passive", "consequence")
    try:
        examples = json.loads(source)
        ok = all(len(examples[k]) == 3 and all(len(e) == 3 for e in examples[k]) for k in kinds)
    except (ValueError, KeyError, TypeError):
        ok = False
    if not ok:
        raise BadInput(
            f"{path} does not hold the examples of the small style",
            expected="for each of " + ", ".join(kinds) + " three lists [statement, question, answer]",
        )
    return examples, text_sha256(source)[:12]
