"""`raft --help`: the verbs in groups, by what a person is up to."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup


class GroupedHelp(TyperGroup):
    """A command whose help lists its verbs under the headings of `groups`, each with a line of its own."""

    groups: ClassVar[dict[str, list[str]]] = {}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Called by click, once the options are written."""
        width = max(len(name) for names in self.groups.values() for name in names)
        for group, names in self.groups.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit=200)) for name in names]
            with formatter.section(group):
                formatter.write_dl(rows)
