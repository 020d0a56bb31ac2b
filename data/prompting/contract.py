"""The prompt contract: how a question and its passages become a prompt, and how an answer is written and read back.

Records, evaluation and serving all go through this module, so what was trained is what is asked. A template is a
folder of three jinja2 files and a `contract.json`; a user may supply another folder. Knows nothing of splits,
retrieval or tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, AnyStr, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data.nouns import Record, digest
from data.prompting.translation import LANGUAGES, translated
from raft_errors import BadInput

BUILT_IN = Path(__file__).parent / "templates" / "raft"
FILES = ("instruction.jinja", "input.jinja", "output.jinja", "contract.json")
CITATIONS = ("before", "after", "none", "unquoted")  # where a quote's passage number stands, if quotes are asked for
HEAVIEST_QUOTE = 100  # weight of the search in the choice of what is quoted
FIELDS = ("begin_quote", "end_quote", "answer_marker", "refusal", "citation")

# Sandboxed, because templates also arrive inside adapters from other people.
_ENVIRONMENT = ImmutableSandboxedEnvironment(autoescape=False, undefined=jinja2.StrictUndefined)

NUMBER_BEFORE = re.compile(r"\[(?P<number>\d{1,4})\][^\n\[\]]{0,80}$")
_NUMBER_BESIDE = re.compile(r"\[(?P<number>\d{1,4})\]\s*$")

# How models say in their own words that the passages do not help; the base model was never taught our refusal.
_OWN_WORDS = re.compile(
    r"^(i (do not|don.t) know|i (cannot|can.t|am unable to) (answer|find|determine)|unanswerable|no answer\b"
    r"|(the )?(answer|information|question) (is not|isn.t|cannot be|can.t be|could not be) "
    r"(\w+ )?(provided|given|found|mentioned|contained|stated|available|determined|answered)"
    r"|(the )?(given |provided )?(passages?|context|text|documents?) (do|does) not "
    r"(contain|mention|provide|say|state))",
    re.IGNORECASE,
)


class PassageLike(Protocol):
    """Anything with a title and a text: a `Chunk`, or a `Passage`."""

    @property
    def title(self) -> str: ...

    @property
    def text(self) -> str: ...


@dataclass(frozen=True)
class Passage:
    """A passage to be shown: its number is its place in the sequence, counted from 1."""

    title: str
    text: str


@dataclass(frozen=True)
class CitedQuote:
    """A quote as it stands in an answer. `passage` is the 1-based number written beside it, None if there is none.

    `check_quotes` in `data.evaluation` finds the passage of a verbatim quote that has no number.
    """

    passage: int | None
    text: str


@dataclass(frozen=True)
class ParsedAnswer:
    """What `parse_answer` found.

    Attributes:
        reasoning: everything before the answer marker, markup included.
        quotes: in order of appearance.
        final_answer: the text after the marker; without a marker the whole text less its quotes, so that a model which
            does not know the format is still scored on its answer.
        refused: whether the final answer says that the passages do not hold the answer.
        marked: whether the answer marker was there.
    """

    reasoning: str
    quotes: tuple[CitedQuote, ...]
    final_answer: str
    refused: bool
    marked: bool


@dataclass(frozen=True)
class PromptTemplate:
    """A checked template. `sources` holds the text of its files in the order of `FILES`."""

    id: str
    sources: tuple[str, ...]
    begin_quote: str
    end_quote: str
    answer_marker: str
    refusal: str
    citation: str

    @property
    def version(self) -> str:
        """Content hash of all files: any edit makes another version."""
        return digest(*self.sources)

    @property
    def fields(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in FIELDS}


def load_template(name_or_folder: str | Path = "raft") -> PromptTemplate:
    """Loads a built-in template or a user's folder.

    Built in are `raft` (the RAFT paper's tags), `quoted` (“…”), `numbered` (“…” [1]) and `direct` (no quotes); with a
    language behind the name (`quoted-de`) instruction and refusal are in that language.

    A folder may leave files out: those of `raft` take their place. Raises BadInput for an unknown name, an unreadable
    file, a template without a required slot, and one whose answers cannot be read back.
    """
    name = str(name_or_folder)
    base, _, language = name.rpartition("-")
    if base in built_in_templates() and (language == "en" or language in LANGUAGES):
        return in_language(load_template(base), language)
    folder = BUILT_IN / name if name in built_in_templates() else Path(name)
    if not folder.is_dir():
        raise BadInput(
            f"prompt template {name!r}: neither a built-in template nor a folder",
            expected=f"one of {', '.join(built_in_templates())}, or a folder with {', '.join(FILES)}",
            do="correct the name or the path",
        )
    if not any((folder / file).is_file() for file in FILES):
        raise BadInput(f"prompt template {name!r}: the folder holds none of {', '.join(FILES)}")
    sources = []
    for file in FILES:
        path = folder / file if (folder / file).is_file() else BUILT_IN / "raft" / file
        try:
            sources.append(path.read_text(encoding="utf-8").replace("\r\n", "\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read ({error})", expected="a UTF-8 text file") from error
    return _checked_template(folder.name, tuple(sources))


def built_in_templates() -> list[str]:
    """Names of the templates that ship with the project, sorted."""
    return sorted(p.name for p in BUILT_IN.iterdir() if p.is_dir())


def in_language(template: PromptTemplate, language: str) -> PromptTemplate:
    """A built-in template in another language; any other template, and for other languages, as it is."""
    built_in = template.id in built_in_templates() and load_template(template.id).sources == template.sources
    sources = translated(template.sources, language) if built_in else None
    return _checked_template(f"{template.id}-{language}", sources) if sources else template


def with_quote_weight(contract: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """The contract with how much the search counts in the choice of what is quoted; 0 stands in none."""
    return {**contract, **({"quote_weight": weight} if weight else {})}


def quote_weight_of(contract: Mapping[str, Any]) -> float:
    """How much the search counts in the choice of what is quoted, where quotes are copied; 0 for not at all.

    Raises:
        BadInput: an adapter of somebody else holds another value than a weight.
    """
    weight = contract.get("quote_weight", 0.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= HEAVIEST_QUOTE:
        raise BadInput(
            f"prompt contract: quote_weight is {weight!r}",
            expected=f"a number from 0 to {HEAVIEST_QUOTE}",
            do="take raft.json from the original adapter",
        )
    return float(weight)


def prompt_contract(template: PromptTemplate, *, passages: int, may_refuse: bool) -> dict[str, Any]:
    """The part of `raft.json` that a server needs to prompt an adapter as it was trained; JSON values only.

    `passages` is the usual number of passages in a record (the k to retrieve).
    """
    return {
        "template": template.id,
        "template_version": template.version,
        "passages": passages,
        "may_refuse": may_refuse,
        **template.fields,
        "sources": dict(zip(FILES, template.sources, strict=True)),
    }


def chat_of(contract: Mapping[str, Any]) -> dict[str, Any]:
    """What the base's chat template was told in training, as `Tokenizer.load` takes it; {} where nothing was."""
    chat = contract.get("chat_template") or {}
    return {name: chat[name] for name in ("variables", "prefill") if chat.get(name)}


def template_from_contract(contract: Mapping[str, Any]) -> PromptTemplate:
    """The template that `prompt_contract` described; BadInput if its sources do not match its version."""
    try:
        template = _checked_template(str(contract["template"]), tuple(contract["sources"][file] for file in FILES))
        version = contract["template_version"]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"prompt contract: {error} is missing", expected="the prompt contract that `raft` wrote into raft.json"
        ) from error
    if template.version != version:
        raise BadInput(
            f"prompt contract: its sources hash to {template.version}, but it records {version}",
            expected="unaltered template sources",
            do="take raft.json from the original adapter",
        )
    return template


def render(
    question: str,
    passages: Sequence[PassageLike],
    *,
    template: PromptTemplate | None = None,
    may_refuse: bool = True,
) -> tuple[str, str]:
    """Returns (instruction, input). Passages keep their order and are numbered from 1; none gives an empty input."""
    template = template or load_template()
    instruction = _render(template, 0, question=question, may_refuse=may_refuse)
    return instruction, _render(template, 1, question=question, passages=passages) if passages else ""


def render_output(
    final_answer: str,
    quotes: Sequence[CitedQuote] = (),
    *,
    reasoning: str = "",
    template: PromptTemplate | None = None,
) -> str:
    """The text that the model is trained to write."""
    return _render(template or load_template(), 2, final_answer=final_answer, quotes=quotes, reasoning=reasoning)


def passage_spans(rendered_input: str, passages: Sequence[PassageLike]) -> list[tuple[int, int]]:
    """[start, end) of each passage's text in the rendered input; BadInput if the template altered a passage."""
    spans, cursor = [], 0
    for number, passage in enumerate(passages, 1):
        start = rendered_input.find(passage.text, cursor)
        if start < 0:
            raise BadInput(
                f"input.jinja: passage {number} does not stand in the prompt unaltered",
                expected="`{{ passage.text }}` of every passage, in order and without filters",
                do="correct the template",
            )
        cursor = start + len(passage.text)
        spans.append((start, cursor))
    return spans


def to_messages(record: Record | Mapping[str, Any]) -> list[dict[str, str]]:
    """The chat form of a prompt (`Record.prompt`), of a record or of a mapping with `instruction` and `input`."""
    if not isinstance(record, Record):
        record = Record(record["instruction"], record.get("input") or "", "")
    return record.prompt


def as_written(quotes: Sequence[CitedQuote], template: PromptTemplate) -> tuple[CitedQuote, ...]:
    """The quotes as they can be read back: no quote, or no number, where the template writes none."""
    if template.citation == "unquoted":
        return ()
    if template.citation == "none":
        return tuple(CitedQuote(None, quote.text) for quote in quotes)
    return tuple(quotes)


def parse_answer(text: str, *, template: PromptTemplate | None = None) -> ParsedAnswer:
    """Reads an answer: a label, or whatever a model wrote. Never fails: a part that is missing comes back empty."""
    template = template or load_template()
    before, marker, after = text.partition(template.answer_marker)
    if not marker:  # a model that forgets the colon has still marked its answer
        before, marker, after = text.partition(template.answer_marker.rstrip(": "))
        after = after.removeprefix(":")
    quotes = tuple(quote for _, _, quote in _quotes(before, template))
    if marker:
        # Small models repeat themselves: the answer ends where the next marker begins.
        final = after.split(template.answer_marker)[0].strip()
    else:
        final = _without_quotes(text, template)
    words = " ".join(final.split()).rstrip(".。").casefold()
    refused = words.startswith(template.refusal.rstrip(".。").casefold()) or bool(_OWN_WORDS.match(words))
    return ParsedAnswer(before.strip() if marker else "", quotes, final, refused, bool(marker))


def closing(text: AnyStr, start: int, begin: AnyStr, end: AnyStr) -> int:
    """Where the mark stands that closes a quote whose words begin at `start`; -1 if there is none.

    A quote may hold quotes in the same marks, if each of them is closed.
    """
    depth, at = 1, start
    while (stop := text.find(end, at)) >= 0:
        if (inner := text.find(begin, at, stop)) >= 0:
            depth, at = depth + 1, inner + len(begin)
            continue
        depth, at = depth - 1, stop + len(end)
        if depth == 0:
            return stop
    return -1


def _quotes(text: str, template: PromptTemplate) -> Iterator[tuple[int, int, CitedQuote]]:
    """Where each quote begins and ends, its number included, and the quote."""
    begin, end = template.begin_quote, template.end_quote
    if template.citation == "after":  # the number closes the quote, which may hold any marks
        pattern = rf"{re.escape(begin)}(?P<text>.*?){re.escape(end)}\s*\[(?P<number>\d{{1,4}})\]"
        for match in re.finditer(pattern, text, re.DOTALL):
            yield match.start(), match.end(), CitedQuote(int(match["number"]), match["text"].strip())
        return
    at, before = 0, NUMBER_BEFORE if template.citation == "before" else _NUMBER_BESIDE
    while (mark := text.find(begin, at)) >= 0:
        first = mark + len(begin)
        stop = closing(text, first, begin, end)
        stop = text.find(end, first) if stop < 0 else stop
        if stop < 0:
            return
        number = before.search(text, at, mark)
        # a number is ignored where the template asks for none: the model made it up
        passage = int(number["number"]) if number and template.citation == "before" else None
        at = stop + len(end)
        yield number.start() if number else mark, at, CitedQuote(passage, text[first:stop].strip())


def _without_quotes(text: str, template: PromptTemplate) -> str:
    parts, at = [], 0
    for start, end, _ in _quotes(text, template):
        parts.append(text[at:start])
        at = end
    return " ".join([*parts, text[at:]]).strip()


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source)


def _render(template: PromptTemplate, index: int, **slots: Any) -> str:
    try:
        return _compiled(template.sources[index]).render(**template.fields, **slots)
    except jinja2.TemplateError as error:
        raise BadInput(
            f"prompt template {template.id!r}, {FILES[index]}: {error}",
            expected=f"a jinja2 template over {', '.join([*slots, *FIELDS])}",
            do="correct the template",
        ) from error


def _checked_template(name: str, sources: tuple[str, ...]) -> PromptTemplate:
    """Parses the contract and proves on a sample that every slot is used and that answers can be read back."""
    try:
        fields = json.loads(sources[3])
        values = {field: fields[field] for field in FIELDS}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"prompt template {name!r}, contract.json: {error}", expected=f"a JSON object with {', '.join(FIELDS)}"
        ) from error
    if not all(isinstance(value, str) and value.strip() for value in values.values()):
        raise BadInput(f"prompt template {name!r}, contract.json: every field must be a non-empty text")
    if values["citation"] not in CITATIONS:
        raise BadInput(
            f"prompt template {name!r}, contract.json: citation is {values['citation']!r}",
            expected=f"one of {', '.join(CITATIONS)}",
        )
    template = PromptTemplate(name, sources, **values)
    question = "Which sample?"
    passages = [Passage("First", "Sample one.\n\n  Indented <b>&</b>."), Passage("Second", "Sample two.")]
    instruction, text = render(question, passages, template=template)
    _demand(question in instruction, template, 0, "question")
    passage_spans(text, passages)
    quotes = (CitedQuote(2, "Sample two."), CitedQuote(1, "one.\n\n  Indented"))
    for sample in (quotes, ()):
        reply = parse_answer(render_output("final words", sample, template=template), template=template)
        _demand(reply.quotes == as_written(sample, template), template, 2, "quotes")
        _demand(reply.final_answer == "final words" and reply.marked, template, 2, "final_answer")
    refusal = parse_answer(render_output(template.refusal, template=template), template=template)
    _demand(refusal.refused, template, 2, "final_answer")
    return template


def _demand(holds: bool, template: PromptTemplate, index: int, slot: str) -> None:
    if not holds:
        raise BadInput(
            f"prompt template {template.id!r}, {FILES[index]}: the slot `{slot}` is missing or cannot be read back",
            expected=f"`{{{{ {slot} }}}}` written with the delimiters of contract.json",
            do="compare with the built-in template `raft`",
        )
