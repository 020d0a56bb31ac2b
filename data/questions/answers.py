"""Checks a teacher's answer against its chunk and repairs what can be repaired: quote verbatim, final answer supported.

Every rule works on words, so that no second model is needed to trust the first. Nothing here asks a teacher.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from data.questions.filters import Fault
from data.questions.library import comparable
from data.questions.tables.cells import texts, truth
from data.questions.wording import content_words, flat, numerals, words
from data.teachers.protocol import Shape
from data.text.alike import alike
from data.text.holding import holds
from data.text.question_words import VERDICTS
from data.text.quotes import Span, locate_quote, sentences
from data.text.unspaced import is_unspaced, word_count


@dataclass(frozen=True)
class Answer:
    """An answer that passed.

    Attributes:
        final: the final answer, on one line.
        quotes: verbatim substrings of the chunk, at least one.
        reasoning: without the quotes.
        repairs: what was mended: `quote` (replaced by the exact text), `quote_found` (the teacher gave none that
            stands in the chunk), `answer` (the teacher's was not supported; words of the quote took its place).
    """

    final: str
    quotes: tuple[str, ...]
    reasoning: str = ""
    repairs: tuple[str, ...] = ()


_NEGATION = frozenset(
    {
        "not",
        "no",
        "never",
        "none",
        "neither",
        "nor",
        "cannot",
        "without",
        "isn't",
        "aren't",
        "don't",
        "doesn't",
        "won't",
        *("nicht", "kein", "keine", "keinen", "keinem", "jamais", "aucun", "aucune", "não", "nunca", "не", "нет"),
        *("inte", "ikke", "niet", "geen"),
    }
)
_YES_NO = frozenset({"yes", "no", "maybe", "true", "false"}) | VERDICTS
_QUOTED = re.compile(r"<quote>(.*?)(?:</quote>|$)|##begin_quote##(.*?)(?:##end_quote##|$)", re.DOTALL | re.IGNORECASE)
_FINAL = re.compile(
    r"(?:<ANSWER>|(?:^|\n)\W*(?:(?:final\s+)?answer|答案|回答|答え|정답|คำตอบ|antwort|réponse|respuesta|ответ))"
    r"\W*[:：](?=[\s*]*(.*))",  # looked at and not taken: an answer may follow that corrects this one
    re.DOTALL | re.IGNORECASE,
)


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_FIGURE = re.compile(r"(?<![\w.,/])(?<!\w-)-?\d+(?:[.,'/-]\d+)*(?!\w)")
"""A number with its sign, a span, fraction or date whole."""


def supporting_sentence(
    text: str, question: str, answer: str, *, min_overlap: float = 0.3, language: str = "en"
) -> Span | None:
    """The sentence of `text` that shares most with question and answer, the answer's words counting double; None where
    even the best shares less than `min_overlap` of them. Ties go to the shorter, then the earlier sentence."""
    question_words, answer_words = content_words(question, language), content_words(answer, language)
    best: tuple[float, int, int] | None = None
    sentence = None
    for span in sentences(text):
        own = content_words(span.of(text), language)
        whole = len(question_words) + 2 * len(answer_words)
        share = (len(own & question_words) + 2 * len(own & answer_words)) / whole if whole else 0.0
        if answer.strip() and locate_quote(answer, span.of(text)):
            share += 0.5
        rank = (round(share, 6), -len(own), -span.start)
        if share >= min_overlap and (best is None or rank > best):
            best, sentence = rank, span
    return sentence


def supported(final: str, evidence: str, question: str, language: str = "en") -> bool:
    """Whether the final answer says nothing that the evidence does not: content words, numbers and negation."""
    final, evidence = _THOUSANDS.sub("", final), _THOUSANDS.sub("", evidence)
    final_words = content_words(final, language)
    have = content_words(evidence, language)
    question_words = content_words(question, language)
    if flat(final).lower().strip(" .。") in _YES_NO:
        return bool(question_words & have)
    if not final_words:
        return alike(flat(final)).lower() in alike(flat(evidence)).lower()
    plain = comparable(evidence)
    have |= {w for w in final_words if any(c.isdigit() for c in w) and holds(plain, w)}
    if any(any(c.isdigit() for c in w) and w not in have for w in final_words) or not numerals(final) <= numerals(
        evidence
    ):
        return False
    if not all(holds(plain, figure) for figure in _FIGURE.findall(comparable(final))):
        return False
    answer_words, own = {w.lower() for w in words(final)}, {w.lower() for w in words(evidence)}
    if (answer_words & _NEGATION) and not (own & _NEGATION):
        return False
    if not final.isascii() and holds(comparable(evidence), final):  # pieces of runs differ with what stands beside
        return True
    return len(final_words & (have | question_words)) >= 0.8 * len(final_words) and bool(final_words & have)


NOT_ANSWERABLE = "NOT ANSWERABLE"


def is_refusal(reply: str) -> bool:
    """Whether the teacher says that the text does not hold the answer."""
    return re.match(r"\W*not answerable\b", as_written(reply).strip(), re.IGNORECASE) is not None


def full_answer(question: str, reply: str, text: str, *, max_words: int, language: str = "en") -> Answer | Fault:
    """The answer of a capable teacher: each quote verified, the final answer checked against them.

    A quote that is nearly in the text is replaced by the exact words; where none is, the sentence that supports the
    final answer becomes the quote. A final answer that the quotes and the text do not support drops the item.
    """
    reply = unicodedata.normalize("NFC", as_written(reply))  # as the letters of the documents are
    if is_refusal(reply):
        return Fault("unanswerable", "the teacher found no answer in the chunk")
    match = max(_FINAL.finditer(reply), key=lambda m: m.start(), default=None)
    if match is None:
        return Fault("no_final_answer", "no line begins with 'Answer:'")
    final = flat(_QUOTED.sub(lambda m: m.group(1) or m.group(2) or "", match.group(1).strip().split("\n")[0])).strip(
        "* "
    )
    if not final:
        return Fault("no_final_answer", "the final answer is empty")
    count = word_count(final) if is_unspaced(final) else len(final.split())
    if count > max_words:
        return Fault("answer_too_long", f"{count} words")
    body, repairs, quotes = reply[: match.start()], [], []
    for mark in _QUOTED.finditer(body):
        located = locate_quote(mark.group(1) or mark.group(2) or "", text)
        if located and len(located.of(text)) >= 4:
            quotes.append(located.of(text))
            if located.how == "repaired":
                repairs.append("quote")
    if not quotes:
        span = supporting_sentence(text, question, final, language=language)
        if span is None or not supported(final, span.of(text), question, language):
            return Fault("no_verbatim_quote", "no quote of the teacher stands in the chunk")
        quotes, repairs = [span.of(text)], ["quote_found"]
    quotes = list(dict.fromkeys(quotes))
    if not supported(final, " ".join(quotes), question, language):
        return Fault("answer_not_supported", f"{final[:80]!r} is not in the quotes")
    return Answer(final, tuple(quotes), _reasoning(body, quotes), tuple(dict.fromkeys(repairs)))


ANSWER_SHAPE = Shape(
    "answer",
    {
        "type": "object",
        "properties": {
            "answerable": {"type": "boolean"},
            "quotes": {"type": "array", "items": {"type": "string"}},
            "reasoning": {"type": "string"},
            "answer": {"type": "string"},
        },
        "required": ["answerable", "quotes", "reasoning", "answer"],
        "additionalProperties": False,
    },
)
"""What an endpoint with structured output is asked for."""


def as_written(reply: str) -> str:
    """A reply in the form of `ANSWER_SHAPE` as the text that `full_answer` reads; any other reply as it is.

    Not every teacher keeps to the types: a list of one text, a text for a list or for a boolean are taken as meant.
    """
    begin, end = reply.find("{"), reply.rfind("}")
    try:
        fields = json.loads(reply[begin : end + 1])
        answer, quotes = ", ".join(_texts(fields["answer"])), _texts(fields["quotes"])
        reasoning = "\n".join(_texts(fields["reasoning"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return reply
    if _is_false(fields.get("answerable")):
        return NOT_ANSWERABLE
    lines = [f"<quote>{quote}</quote>" for quote in quotes if quote.strip()]
    return "\n".join([*lines, reasoning, f"Answer: {flat(answer)}"])


def _texts(value: Any) -> list[str]:
    """The texts of a field: a text as it is, of a list its texts, numbers as a document has them."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else texts(value)


def _is_false(value: Any) -> bool:
    try:
        return truth(value) is False
    except ValueError:  # neither yes nor no
        return False


def _reasoning(body: str, quotes: list[str]) -> str:
    """The teacher's sentences without lines that only quote, and answers given before the last; a quote inside a
    sentence keeps its words."""
    kept = []
    for line in _QUOTED.sub(lambda m: f"\0{flat(m.group(1) or m.group(2) or '')}\0", body).splitlines():
        outside = re.sub(r"\0[^\0]*\0", "", line)
        if len(words(outside)) >= 3 and not _FINAL.match(line):
            kept.append(line.replace("\0", '"').strip())
    return flat(" ".join(kept))
