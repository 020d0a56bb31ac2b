"""Prompts as template files: one jinja2 file a prompt, one block a message, versioned by the hash of the file.

A block's name is its role, with a suffix where a role speaks more than once: `system`, `user_1`, `assistant_1`, `user`.
Users override a file by putting one of the same name into a folder of their own. Knows no teacher.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox

from data.nouns import text_sha256
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
        said = []
        for block, render in self.template.blocks.items():
            if content := "".join(render(context)).strip():
                said.append({"role": block.split("_")[0], "content": content})
        return said


def load_prompt(name: str, *, slots: tuple[str, ...], folder: Path | None = None) -> Prompt:
    """Reads `<name>.jinja` from `folder` if it is there, else the one that ships with the project.

    Raises:
        BadInput: the file does not parse, has no user message, or lacks one of the slots.
    """
    path = OWN_TEMPLATES / f"{name}.jinja"
    if folder is not None:
        if not folder.is_dir():
            raise BadInput(f"no template folder {folder}", do="correct the path or leave the setting out")
        own = folder / f"{name}.jinja"
        path = own if own.is_file() else path
    source = path.read_text(encoding="utf-8")
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
