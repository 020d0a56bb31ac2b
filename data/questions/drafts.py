"""Turns a plain statement around by rule: the question a small teacher should have written.

Used to mend a teacher's question that does not fit its statement, and counted as such. Silent (an empty string)
wherever the grammar is not sure; it knows English only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from data.questions.selection import Statement
from data.questions.shapes import PLURAL_VERBS, SINGULAR_VERBS
from data.questions.wording import is_stop_word

_AUXILIARY = re.compile(r"^(.+?)\s(is|are|was|were|can|may|must|will|should|cannot)\s(.+)$")
_SINGULAR = re.compile(rf"^(.+?)\s({'|'.join(map(re.escape, SINGULAR_VERBS))})(?:\s(.+))?$")
_PLURAL = re.compile(rf"^(.+?s)\s({'|'.join(map(re.escape, PLURAL_VERBS))})(?:\s(.+))?$")
_ADVERB = re.compile(r"\s(?:also|then|always|often|usually|only|thus|therefore|still|first|now|just|even|\w+ly)$")
_CLAUSE = re.compile(
    r"\b(?:whose|which|this|these|those|not|never|no|if|when|because|but|is|are|was|were|must|should|can|may|will|cannot)\b|,"
)
PARTICIPLE = re.compile(
    r"\w+ed$|used|found|given|set|written|made|put|kept|read|taken|shown|built|sent|held|bound|done$"
)
_PLACE = frozenset({"in", "on", "at", "within", "inside", "near", "under", "between", "outside", "before", "after"})
_DETERMINERS = frozenset({"a", "an", "the", "its", "their", "all", "any", "some", "both"})
_TWO_VERBS = re.compile(rf"\b(?:and|or)\s(?:\w+\s)?(?:{'|'.join(map(re.escape, SINGULAR_VERBS))})\b")
_TOWARDS = frozenset({"to", "of", "for", "with", "from", "into", "through", "as", "on"})


def draft(statement: Statement, names: frozenset[str] = frozenset()) -> str:
    """The question whose answer is `statement.answer`, or "".

    Args:
        names: words that keep their capital letter inside a sentence (`names_in`).
    """
    known = statement.text[: statement.text.rfind(statement.answer)].rstrip(" ,")
    if statement.kind == "consequence":
        word, _, clause = re.sub(r",?\sthen$", "", known).partition(" ")
        return f"What happens {'when' if word in ('When', 'Whenever') else word.lower()} {clause}?"
    asked = {
        "passive": _passive,
        "definition": _definition,
        "action": _action,
        "duty": _duty,
        "condition": _when,
        "reason": _why,
    }
    if statement.kind not in asked or not known:
        return ""
    question = asked[statement.kind](_lowered(known, names), statement.answer)
    return question[:1].upper() + question[1:] if question else ""


def _definition(known: str, answer: str) -> str:
    if found := re.match(r"^(.+)\s(is|are)$", known):
        subject = _subject(found.group(1))
        use = " used for" if re.match(r"(?:simply )?used (?:to|for)\b", answer) else ""
        if not subject or (answer.startswith("used") and not use):
            return ""
        return f"What {found.group(2)} {subject}{use}?"
    if found := re.match(r"^(.+)\s(means|denotes)$", known):
        subject = _subject(found.group(1))
        return f"What does {subject} {'mean' if found.group(2) == 'means' else 'denote'}?" if subject else ""
    return ""


def _action(known: str, answer: str) -> str:
    for pattern, auxiliary in ((_SINGULAR, "does"), (_PLURAL, "do")):
        found = pattern.match(known)
        if found and not found.group(3) and (subject := _subject(found.group(1))):
            verb = base_form(found.group(2)) if auxiliary == "does" else found.group(2)
            return f"What {auxiliary} {subject} {verb}?"
    return ""


def _duty(known: str, answer: str) -> str:
    found = re.match(r"^(.+)\s(must|should|can|may|can only|may only|must only)$", known)
    subject = _subject(found.group(1)) if found else ""
    if not found or not subject:
        return ""
    modal, _, only = found.group(2).partition(" ")
    tokens = answer.split()
    verb, rest = tokens[0], tokens[1:]
    if verb == "be" and rest and PARTICIPLE.fullmatch(rest[0]):
        verb, rest = f"be {rest[0]}", rest[1:]
        if not rest:
            return ""
        if rest[0] == "by":
            return f"How {modal} {subject} {verb}?"
        if verb == "be used" and rest[0] in ("to", "for"):
            return f"What {modal} {subject} {only and 'only '}be used for?"
        if rest[0] not in _PLACE | _TOWARDS:
            return ""
    elif verb == "be":
        return f"What {modal} {subject} be?"
    if not rest:
        return ""
    if rest[0] in _PLACE:
        return f"Where {modal} {subject} {verb}?"
    if rest[0] in _TOWARDS:
        return f"What {modal} {subject} {verb} {rest[0]}?"
    takes_object = not is_stop_word(rest[0]) or rest[0] in (
        "a",
        "an",
        "the",
        "its",
        "their",
        "all",
        "any",
        "some",
        "both",
    )
    return f"What {modal} {subject} {verb}?" if takes_object and not rest[0].endswith("ly") else ""


def _passive(known: str, answer: str) -> str:
    found = re.match(r"^(.+)\s(is|are|was|were)\s(\S+)$", known)
    subject = _subject(found.group(1)) if found else ""
    if not found or not subject:
        return ""
    auxiliary, verb, preposition = found.group(2), found.group(3), answer.split()[0]
    if re.match(r"to\s(?!a\s|an\s|the\s|its\s|their\s|all\s|any\s|\W)", answer):
        return ""  # "intended to ease ...", "guaranteed to be ..."
    if preposition == "by":
        return f"How {auxiliary} {subject} {verb}?"
    if preposition in _PLACE:
        return f"Where {auxiliary} {subject} {verb}?"
    return f"What {auxiliary} {subject} {verb} {preposition}?" if preposition in _TOWARDS else ""


def _when(known: str, answer: str) -> str:
    return _inverted("until when" if answer.startswith("until") else "when", known)


def _why(known: str, answer: str) -> str:
    return _inverted("why", known)


def _inverted(word: str, clause: str) -> str:
    """Turns "the deposit is paid back" into "when is the deposit paid back?"; one subject, one verb."""
    if _TWO_VERBS.search(clause):
        return ""
    if found := _AUXILIARY.match(clause):
        subject, auxiliary, rest = _subject(found.group(1)), found.group(2), found.group(3)
        if not subject or _CLAUSE.search(rest):
            return ""
        if auxiliary == "cannot":
            return f"{word} can {subject} not {rest}?"
        return f"{word} {auxiliary} {subject} {rest}?"
    for pattern, auxiliary in ((_SINGULAR, "does"), (_PLURAL, "do")):
        found = pattern.match(clause)
        if found and (subject := _subject(found.group(1))) and not _CLAUSE.search(found.group(3) or ""):
            verb = base_form(found.group(2)) if auxiliary == "does" else found.group(2)
            return f"{word} {auxiliary} {subject} {verb} {found.group(3) or ''}".rstrip() + "?"
    return ""


def _subject(phrase: str) -> str:
    """The phrase without adverbs at its end, or "" where it is no simple subject."""
    while (shorter := _ADVERB.sub("", phrase)) != phrase:
        phrase = shorter
    if _CLAUSE.search(phrase) or len(phrase.split()) > 10 or is_stop_word(phrase.split()[-1]):
        return ""
    return phrase if re.search(r"\w{2}", phrase) else ""


def base_form(verb: str) -> str:
    """The plural or infinitive of a verb of the list: "matches" -> "match", "depends on" -> "depend on"."""
    irregular = {"has": "have", "matches": "match", "specifies": "specify", "identifies": "identify"}
    first, _, rest = verb.partition(" ")
    return f"{irregular.get(first, first.removesuffix('s'))} {rest}".rstrip()


def _lowered(known: str, names: frozenset[str]) -> str:
    """With a small first letter unless the first word is a name."""
    first = known.split()[0]
    plain = first[:1].isupper() and (len(first) == 1 or first[1:].replace("-", "").islower())
    if plain and first not in names:
        return first.lower() + known[len(first) :]
    return known


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Words that the texts write with a capital letter inside sentences more often than without."""
    balance: Counter[str] = Counter()
    for text in texts:
        balance.update(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+\b", text))
        balance.subtract(word.capitalize() for word in re.findall(r"\b[a-z]+\b", text))
    return frozenset(word for word, surplus in balance.items() if surplus > 0)
