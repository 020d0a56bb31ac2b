"""The style for small teachers: a sentence and the words of it that answer go in, one short question comes out.

A model of a few hundred million parameters cannot be trusted with an answer, but it can turn a statement around. So the
answer is cut from the sentence by its shape, the teacher writes the question, and rules decide whether the two fit.
"""

from __future__ import annotations

import re

from data.questions.filters import Fault
from data.questions.selection import Statement
from data.questions.wording import content_words, flat, stem, words

_BEGINS = {
    "condition": {"when", "under", "in", "at", "if", "until", "after", "before", "on"},
    "reason": {"why", "for", "what"},
    "definition": {"what", "who", "which"},
    "duty": {"what", "where", "who", "which", "how", "to", "in", "with", "when", "from", "by"},
    "action": {"what", "which", "who", "where", "how", "on", "to", "in", "from", "with", "at"},
}
_MODALS = ("must", "should", "can", "may", "cannot", "will", "shall")
_LIGHT = content_words("happen kind sort type name called mean thing purpose reason order")
_NEGATION = {"not", "cannot", "never", "no", "without", "don't", "doesn't", "isn't", "aren't"}


def mend(question: str, statement: Statement) -> str:
    """The question without the answer at its end, and with the statement's own "must", "may", "can".

    "When does X raise E if the disk is full?" gives away its answer and is right without it.
    """
    question = re.sub(r"^(What does .+? )(\w+)s\?$", _bare_verb, question)
    if statement.kind in ("condition", "reason", "action"):
        said = question.rstrip("?").split()
        told = [w.lower().strip(".,;:?") for w in statement.answer.split()]
        for cut in range(len(said) - 2, 2, -1):
            tail = [w.lower().strip(".,;:?") for w in said[cut:]]
            if len(tail) >= 2 and tail == told[: len(tail)] and (statement.kind != "action" or cut >= 4):
                question = " ".join(said[:cut]).rstrip(",") + "?"
                break
    if statement.kind == "duty":
        found = re.search(r"\b(must|should|can|may|will|shall)\b", statement.text)
        asked = re.match(r"(\w+ )(must|should|can|may|will|shall)\b", question)
        if found and asked and found.group(1) != asked.group(2):
            question = asked.group(1) + found.group(1) + question[asked.end() :]
    return question


def _bare_verb(match: re.Match[str]) -> str:
    """ "What does it returns?" -> "What does it return?" for verbs whose stem shows how."""
    verb = match.group(2)
    return f"{match.group(1)}{verb}?" if verb.endswith(("s", "u", "i")) or len(verb) > 3 else match.group()


def fits(question: str, statement: Statement) -> Fault | None:
    """Whether the question is about what the statement says and leaves its answer open."""
    first = words(question)[0].lower() if words(question) else ""
    if first not in _BEGINS.get(statement.kind, {first}):
        return Fault("asks_something_else", f"{statement.kind} asked for with {first!r}")
    asked, told = content_words(question), content_words(statement.answer)
    known = content_words(known_part(statement))
    if told and len(told - asked) < 0.6 * len(told):
        return Fault("gives_answer_away", "the question says what it asks for")
    if foreign := sorted(asked - content_words(statement.text) - _LIGHT):
        return Fault("asks_something_else", "not in the sentence: " + ", ".join(foreign[:5]))
    if re.search(r"\bdo\?$", question):  # "What does X do?": the verb is part of the answer
        known = known - {stem(w) for w in words(known_part(statement))[-1:]}
    if len(known & asked) < 0.75 * len(known):
        return Fault("asks_something_else", "leaves out: " + ", ".join(sorted(known - asked)[:5]))
    denies = {w.lower() for w in words(known_part(statement))} & _NEGATION
    if denies and not {w.lower() for w in words(question)} & _NEGATION:
        return Fault("asks_something_else", f"leaves out: {sorted(denies)[0]}")
    return None


def known_part(statement: Statement) -> str:
    """The sentence up to the words that answer."""
    return statement.text[: statement.text.find(statement.answer)]


def final_answer(question: str, statement: Statement) -> str:
    """The statement's answer without the words at its head that the question says already ("be used in ...")."""
    if re.search(r"\bdo\?$", question) and statement.kind == "action":
        return flat(statement.text)
    tokens = statement.answer.split()
    if statement.kind == "duty":
        said = {stem(w) for w in words(question)[1:]} | {"be"}
        while len(tokens) > 1 and {stem(w) for w in words(tokens[0])} <= said:
            tokens = tokens[1:]
    return " ".join(tokens).rstrip(".,;: ")
