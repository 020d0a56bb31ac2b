"""The shapes of plain English statements, and which of their words a question can ask for.

"The gate stays closed until the train has passed" is a condition and can be asked about with "when"; the words that
answer are the text's own. Sentences of other shapes, and other languages, are `general`: nothing is cut from them.
"""

from __future__ import annotations

import re

from data.questions.wording import content_words

# Group 1 of a shape is what the question may say, group 2 the words that answer; both stay as they are written.
_NO_SUBJECT = (
    "If|When|While|Once|After|Before|Unless|Until|Since|Because|Called|Should|Can|Must|May|Return|Returns|Using|Use|"
    "Given|Note|Notice|Remember|Please|Make|Let|Even|Although|Though|I|By|In|On|At|With|For|To|From|As|Without|During"
)
_SUBJECT = rf"((?!(?:{_NO_SUBJECT})\b)(?:[^,;:()]|\([^()]{{0,20}}\)){{3,70}}?"
_VERBS = """
return raise yield create contain call set give take make define indicate represent support allow cause provide execute
print store remove add include use require describe control hold bind convert replace write read check start stop accept
produce perform prevent show display introduce implement terminate invoke compare install manage generate enable change
affect measure reduce increase improve protect determine receive send deliver pay offer cover assign evaluate treat find
keep ignore wrap consist:of depend:on belong:to refer:to end:with begin:with lead:to result:in default:to apply:to
"""
PLURAL_VERBS = [verb.replace(":", " ") for verb in _VERBS.split()]
SINGULAR_VERBS = [re.sub(r"^\w+", r"\g<0>s", verb) for verb in PLURAL_VERBS]
PLURAL_VERBS += ["specify", "identify", "have", "match"]
SINGULAR_VERBS += ["specifies", "identifies", "has", "matches"]
_S_VERBS = "|".join(SINGULAR_VERBS)
_PLURAL_VERBS = "|".join(PLURAL_VERBS)
_MODALS = "can only|may only|must only|must not|should not|must|should|can|may|cannot|has to|have to|needs to|need to"
_PARTICIPLES = (
    r"[a-z-]+ed|found|given|set|written|made|put|kept|read|taken|shown|built|sent|held|bound|done|known|drawn|thrown|"
    r"run|seen|chosen|understood|left|lost|paid|sold|told"
)
_SHAPES = {
    "consequence": re.compile(
        r"((?:If|When|Whenever|Once|As soon as)\s"
        r"(?!(?:it|this|that|they|these|you|so|not|any|even|possible|necessary|[a-z]+ed)\b)[^,;:]{8,100}),\s(?:then\s)?"
        r"((?!(?:it|this|that|they|these|and|or|but|which|so|optionally)\b)(?!\S+\s(?:or|and)\s)[^;:]+)$"
    ),
    "reason": re.compile(rf"{_SUBJECT}\s[^,;:]{{3,80}}?),?\s((?:because|so that|in order to|due to)\s.+)$"),
    "condition": re.compile(
        rf"{_SUBJECT}\s(?:[^,;:()]|\([^()]{{0,20}}\)){{3,90}}?),?\s"
        r"((?:when|whenever|if|until|once|after|before)\s"
        r"(?!(?:any|necessary|needed|otherwise|possible)\b)[^,;:]+)$"
    ),
    "definition": re.compile(rf"{_SUBJECT}\s(?:is|are|means|denotes))\s((?:a|an|the|used|simply)\s[^;:]+)$"),
    "duty": re.compile(rf"{_SUBJECT}\s(?:{_MODALS}))\s((?!(?:not|only|also|then|even|[a-z]+ly)\b)[a-z]+\s[^;:]+)$"),
    "passive": re.compile(
        rf"{_SUBJECT}\s(?:is|are|was|were)\s(?:{_PARTICIPLES}))\s"
        r"((?:by|in|on|at|inside|within|to|for|with|from|as|into)\s[^;:]+)$"
    ),
    "action": re.compile(
        rf"{_SUBJECT}(?:\s(?:{_S_VERBS})|(?<=s)\s(?:{_PLURAL_VERBS})))\s((?!(?:of|or|and|to|been|also|not)\b)[^;:]+)$"
    ),
}
# a comma after which a new main clause begins: what follows answers nothing
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|what)\s+\S+$|^(?:Which|What|How|Whether)\s|\beven$")
_SPLICE = re.compile(
    r",\s(?=(?:the|it|they|but|so|and the|and it|while|whereas|although)\s)|,\s(?=and\s.*\b(?:is|are)\b)"
    rf"|\sand\s(?=(?:{_S_VERBS})\s)|\sand\s(?=the\s.*\b(?:is|are)\b)|\sbut\s(?=(?:does|do|is|are|not|cannot|must|should)\s)"
)


def shape(sentence: str) -> tuple[str, str]:
    """The kind of a one-line sentence and the words in it that a question should ask for ("" for kind `general`)."""
    body = sentence.rstrip(".!。 ")
    for kind, pattern in _SHAPES.items():
        found = pattern.match(body)
        if found and content_words(found.group(1)) and not _RELATIVE.search(found.group(1)):
            answer = _first_clause(found.group(2)) if kind not in ("reason", "consequence") else found.group(2)
            if 2 <= len(answer.split()) <= 24 and not (kind == "action" and _no_object(found.group(1), answer)):
                return kind, answer
    return "general", ""


def _first_clause(words: str) -> str:
    """The words up to a comma after which a new main clause begins, unless that comma stands in brackets or quotes."""
    for cut in _SPLICE.finditer(words):
        head = words[: cut.start()]
        if head.count("(") == head.count(")") and head.count('"') % 2 == 0:
            return head
    return words


def _no_object(known: str, answer: str) -> bool:
    """ "has moved" and "starts moving" are two halves of one verb, not a verb and what it acts on."""
    verb, first = known.split()[-1], answer.split()[0]
    if verb in ("has", "have"):
        return re.fullmatch(_PARTICIPLES, first) is not None
    return verb in ("start", "starts", "stop", "stops", "keep", "keeps") and first.endswith("ing")
