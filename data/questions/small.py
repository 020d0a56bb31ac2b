"""The style for small teachers: a sentence and the words of it that answer go in, one short question comes out.

A model of a few hundred million parameters cannot be trusted with an answer, but it can turn a statement around. So the
answer is cut from the sentence by its shape, the teacher writes the question, and rules decide whether the two fit.
"""

from __future__ import annotations

import re

from data.questions.drafts import PARTICIPLE, base_form
from data.questions.filters import Fault
from data.questions.selection import Statement
from data.questions.shapes import SINGULAR_VERBS
from data.questions.wording import content_words, flat, stem, words

_BEGINS = {
    "condition": {"when", "under", "in", "at", "if", "until", "after", "before", "on"},
    "reason": {"why", "for", "what"},
    "definition": {"what", "who", "which"},
    "consequence": {"what"},
    "passive": {"what", "where", "how", "who", "which", "by", "in", "to", "for", "with", "from", "as", "when"},
    "duty": {"what", "where", "who", "which", "how", "to", "in", "with", "when", "from", "by"},
    "action": {"what", "which", "who", "where", "how", "on", "to", "in", "from", "with", "at"},
}
_LIGHT = content_words("happen kind sort type name called mean thing purpose reason order")
_ARTICLES = frozenset({"a", "an", "the"})
_DETERMINERS = _ARTICLES | {"its", "their", "any", "all", "some", "each", "and", "or", "of"}
_NO_OBJECT = frozenset(
    {
        "in",
        "on",
        "at",
        "within",
        "near",
        "under",
        "before",
        "after",
        "to",
        "of",
        "for",
        "with",
        "from",
        "into",
        "as",
        "only",
    }
)
_DO = re.compile(r"\bdo\?$")
_NEGATION = {"not", "cannot", "never", "no", "without", "don't", "doesn't", "isn't", "aren't"}


def mend(question: str, statement: Statement) -> str:
    """The question with small faults put right: quotation marks the statement has not, "does it returns", the answer at
    its end ("When does X fail if the disk is full?"), "can" where the statement says "must"."""
    question = re.sub(
        r'"([^"]+)"', lambda m: m.group() if m.group() in statement.text else _bare(m, statement), question
    )
    question = _with_base_verb(question)
    if statement.kind in ("condition", "reason", "action"):
        said = question.rstrip("?").split()
        told = [w.lower().strip(".,;:?") for w in statement.answer.split()]
        for cut in range(len(said) - 2, 2, -1):
            tail = [w.lower().strip(".,;:?") for w in said[cut:]]
            if tail == told[: len(tail)] and (statement.kind != "action" or cut >= 4):
                question = " ".join(said[:cut]).rstrip(",") + "?"
                break
    if statement.kind == "duty":
        found = re.search(r"\b(must|should|can|may|will|shall)\b", statement.text)
        asked = re.match(r"(\w+ )(must|should|can|may|will|shall)\b", question)
        if found and asked and found.group(1) != asked.group(2):
            question = asked.group(1) + found.group(1) + question[asked.end() :]
    return question


def _bare(match: re.Match[str], statement: Statement) -> str:
    """A quoted word without its marks where the statement writes it so."""
    return match.group(1) if match.group(1) in statement.text else match.group()


def _with_base_verb(question: str) -> str:
    """ "does ... returns" -> "does ... return", for the verbs of the list."""
    if not re.match(r"\w+ does ", question):
        return question
    tokens = question.rstrip("?").split()
    for at in range(len(tokens) - 1, 2, -1):
        if tokens[at] in SINGULAR_VERBS and tokens[at - 1].lower() not in _DETERMINERS:
            return " ".join([*tokens[:at], base_form(tokens[at]), *tokens[at + 1 :]]) + "?"
    return question


def fits(question: str, statement: Statement, nearby: str = "") -> Fault | None:
    """Whether the question is about what the statement says and leaves its answer open.

    Args:
        nearby: the chunk's text; a word of it that the statement lacks is allowed ("the `pass` *statement*").
    """
    first = words(question)[0].lower() if words(question) else ""
    if first not in _BEGINS.get(statement.kind, {first}):
        return Fault("asks_something_else", f"{statement.kind} asked for with {first!r}")
    asked, told = content_words(question), content_words(statement.answer)
    known = content_words(known_part(statement))
    if told and len(told - asked) < (0.34 if statement.kind in ("condition", "reason") else 0.5) * len(told):
        return Fault("gives_answer_away", "the question says what it asks for")
    if statement.kind != "definition" and len(asked) < 3 and not re.search(r"[\"“*`_\d]|\s[A-Z]", question):
        return Fault("unspecific", "fewer than three words with a meaning, and no name")
    said = content_words(statement.text)
    foreign = sorted(asked - said - _LIGHT)
    if len(foreign) > 1 or not set(foreign) <= content_words(nearby):
        return Fault("asks_something_else", "not in the sentence: " + ", ".join(foreign[:5]))
    if statement.kind == "definition" and statement.answer.startswith("used ") and "used" not in question:
        return Fault("asks_something_else", "leaves out: used")
    if len((asked & told) - known) > 1:
        return Fault("gives_answer_away", "in the answer as well: " + ", ".join(sorted((asked & told) - known)[:5]))
    for name in re.findall(r'"([^"]+)"', question):
        if name not in known_part(statement):
            return Fault("asks_something_else", f"{name!r} is not what the sentence is about")
    if statement.kind == "duty" and not _DO.search(question) and (fault := _duty_frame(question, statement)):
        return fault
    if _DO.search(question):  # "What does X do?": the verb is part of the answer
        known = known - {stem(w) for w in words(known_part(statement))[-1:]}
    if len(known & asked) < 0.75 * len(known):
        return Fault("asks_something_else", "leaves out: " + ", ".join(sorted(known - asked)[:5]))
    verb = words(known_part(statement))[-1:]
    if statement.kind == "passive" and not {stem(v) for v in verb} <= {stem(w) for w in words(question)}:
        return Fault("asks_something_else", f"leaves out: {verb[0]}")
    if statement.kind == "consequence" and not re.search(r"\bhappen", question):
        return Fault("asks_something_else", "does not ask what happens")
    denies = {w.lower() for w in words(known_part(statement))} & _NEGATION
    if denies and not {w.lower() for w in words(question)} & _NEGATION:
        return Fault("asks_something_else", f"leaves out: {sorted(denies)[0]}")
    return None


def _duty_frame(question: str, statement: Statement) -> Fault | None:
    """Whether the question has the verb, so that "X must be followed by Y" is not asked for with "What must X be?"."""
    tokens = statement.answer.split()
    passive = tokens[0] == "be"
    verb, rest = (tokens[1], tokens[2:]) if passive and len(tokens) > 1 else (tokens[0], tokens[1:])
    if passive and not PARTICIPLE.fullmatch(verb):
        return None if re.search(r"\bbe\?$", question) else Fault("asks_something_else", "leaves out: be")
    asked = question.rstrip("?").split()
    if stem(verb) not in {stem(w) for w in words(question)}:
        return Fault("asks_something_else", f"leaves out: {verb}")
    if asked[0] == "What" and not passive and rest and (rest[0].endswith("ly") or rest[0] in _NO_OBJECT - {*asked}):
        return Fault("asks_something_else", f"nothing follows {verb!r} that 'what' could ask for")
    return None


def known_part(statement: Statement) -> str:
    """The sentence up to the words that answer."""
    return statement.text[: statement.text.find(statement.answer)]


def final_answer(question: str, statement: Statement) -> str:
    """The statement's answer without the words at its head that the question says already ("be used in ...")."""
    if _DO.search(question) and statement.kind == "action":
        return flat(statement.text)
    tokens = statement.answer.split()
    if statement.kind == "definition" and question.endswith(" used for?"):
        tokens = tokens[tokens.index("used") + 1 :] if "used" in tokens[:2] else tokens
    if statement.kind == "passive" and question.rstrip("?").split()[-1:] == tokens[:1]:
        tokens = tokens[1:]
    if statement.kind == "duty":
        said = {stem(w) for w in words(question)[1:]} | {"be"}
        while len(tokens) > 1 and tokens[0] not in _ARTICLES and {stem(w) for w in words(tokens[0])} <= said:
            tokens = tokens[1:]
    return " ".join(tokens).rstrip(".,;: ")
