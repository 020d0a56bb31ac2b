"""The code blocks of README.md, CONTRIBUTING.md and docs/, and the commands in them.

A block that a test cannot run has a line before it that says why, and that no reader of the page sees:

    <!-- not run: needs a GPU -->

Its commands are parsed all the same, so that a verb, an option or a file that does not exist is noticed.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: (?P<reason>.+?) -->\s*$")
SPAN = re.compile(r"`((?:raft|make|python (?:benchmarks|examples)/)[^`]*)`")
SHELL = ("", "sh", "bash", "console")
PROGRAMS = ("raft", "python", "make", "pip", "prefect")
BREAKS = {"&&", "||", "|", ";"}
REDIRECTS = {">", ">>", "<", "2>", "2>>"}


@dataclass(frozen=True)
class Block:
    """A code block: the page and the line where it begins, its language, its text, and why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Its commands as argument lists, without variables, redirections and comments; none in other languages."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines for command in commands_of(line)]


def blocks() -> Iterator[Block]:
    """Every code block of every page, in order."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            before = text[: match.start()].rstrip("\n").rpartition("\n")[2]
            mark = MARK.search(before)
            line = text.count("\n", 0, match.start()) + 1
            yield Block(page, line, match["language"], match["text"], mark["reason"] if mark else "")


def spans() -> Iterator[tuple[str, list[str]]]:
    """Commands that stand in a sentence or a table: (place, arguments)."""
    for page in PAGES:
        text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))
        for match in SPAN.finditer(text):
            place = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
            for command in commands_of(match[1]):
                yield place, command


def inside(command: list[str]) -> list[str]:
    """What a container of our image is told to do, as a command of `raft`; any other command as it is."""
    if command[:2] in (["podman", "run"], ["docker", "run"]):
        image = next((place for place, word in enumerate(command) if re.fullmatch(r"jora-raft(:\w+)?", word)), None)
        return ["raft", *command[image + 1 :]] if image is not None else command
    return command


def commands_of(line: str) -> list[list[str]]:
    """The commands of one line of a shell whose program is one of PROGRAMS; the path of a program is left out."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # not a shell's line: a quotation mark is open
        return []
    commands: list[list[str]] = [[]]
    skip = False
    for word in words:
        if skip or word in REDIRECTS:
            skip = word in REDIRECTS
        elif word in BREAKS:
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    named = [[re.sub(r"^.*/(?=\w+$)", "", command[0]), *command[1:]] for command in map(inside, commands) if command]
    named = [[re.sub(r"^python[\d.]*$", "python", command[0]), *command[1:]] for command in named]
    return [command for command in named if command[0] in PROGRAMS]
