"""Rules a question must pass before anything is paid for its answer: well-formed, grounded, no copy, no duplicate.

Each rule returns None or a reason with a detail. The rules are language-light: English words sharpen them, those of
other languages are told by their code, and scripts without spaces are compared by characters. Nothing here asks a
teacher or searches an index.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from rapidfuzz import fuzz, process

from data.nouns import Chunk
from data.questions.wording import content_words, flat, has_stop_words, stems, words
from data.text.alike import MARKS, alike
from data.text.question_words import ASKS_WITHOUT_MARK, IN_RUNS
from data.text.unspaced import LETTER, RUN, is_unspaced, pieces, word_count


class Fault(NamedTuple):
    """Why a question is dropped: a short code and one line for people."""

    reason: str
    detail: str = ""


_PREAMBLE = re.compile(
    r"^(?:(?:here (?:is|are)|sure|certainly|of course|question)\b[^\n?]*:\s*|q\d*[:.)]\s*)", re.IGNORECASE
)
_DEIXIS = re.compile(
    r"\b(?:the|this|that|these|above|following|given|provided)\s+"
    r"(?:(?:above|following|given|provided|first|original)\s+)?"
    r"(?:passages?|texts?|excerpts?|paragraphs?|contexts?|documents?|statements?|sentences?|snippets?|articles?|author)\b"
    r"|\bmentioned above\b|\babove[- ]mentioned\b|\baccording to (?:the|this) (?:passage|text|author)"
    r"|\b(?:this|these|that|those)\s+"
    r"(?!(?:is|are|was|were|can|could|do|does|has|have|will|should|must|may)\b)[a-z]+\s*(?:\?|$)"
    r"|\bthis\s+[a-z]+\b"
    r"|\b(?:diese[rsmn]?|de[rmn]|im) (?:Abschnitt|Textabschnitt|Text|Absatz)\b|\boben genannt"
    r"|\b(?:ce|cet|le|du) (?:passage|texte|extrait|paragraphe)\b|\bci-dessus\b"
    r"|\b(?:este|el|del) (?:pasaje|texto|fragmento|párrafo)\b"
    r"|\b(?:этом|данном) (?:тексте|отрывке|абзаце)|\bупомянут\w+ выше"
    r"|本文|上文|上述|文中|[该这此]段|この文章|上記|前述",
    re.IGNORECASE,
)
_OPENING_WORDS = """
what when where which who whom whose why how is are was were do does did can could may might must shall should
will would has have had in at by for from on to of under with until after before during if name
"""
_OPENERS = frozenset(_OPENING_WORDS.split())
# words a question may use though its chunk does not: they ask, they say nothing
_FRAME = content_words(
    "what when where which who why how many much often long kind type sort happen happens mean meaning purpose use "
    "used using difference between effect result reason way example name called thing things order function work works "
    "make made get give given need needed required allow allowed possible default value relate role say refer describe "
    "find cause part main"
)


def tidy(reply: str) -> str:
    """The first line of a teacher's reply without numbering, labels, bullets or outer quotation marks."""
    for line in unicodedata.normalize("NFC", reply).strip().splitlines():
        line = re.sub(r"^\s*(?:[-*•]+|\(?\d{1,2}[.):]\)?|#+)\s*", "", line.strip())
        line = _PREAMBLE.sub("", line.replace("**", "")).strip()
        if line.startswith(('"', "“")) and line.endswith(('"', "”")) and line.count('"') <= 2 and "?" in line[-3:]:
            line = line[1:-1].strip()
        if line:
            return flat(line)
    return ""


def well_formed(question: str, language: str = "en") -> Fault | None:
    """One sentence of 4 to 40 words that ends in a question mark and points at no unseen text.

    Args:
        language: of the corpus, as an ISO 639 code; how a question begins is looked at in English alone.
    """
    if not question:
        return Fault("empty", "the teacher wrote no question")
    unspaced = is_unspaced(question)
    if not _ends_as_question(question, unspaced):
        return Fault("not_a_question", "does not end in a question mark")
    count = len(question.split())
    letters = sum(c.isalpha() or c in MARKS for c in question)
    if letters < 0.55 * len(question.replace(" ", "")):
        return Fault("not_language", f"{letters} letters in {len(question)} characters")
    if not (3 <= word_count(question) <= 45 if unspaced else 4 <= count <= 40):
        return Fault("length", f"{count} words")
    if re.search(r"[.!?？]['\"”’)]*\s+[\"“'A-Z]|[。！](?!$)", question[:-1]) or len(_MARK.findall(question)) > 1:
        return Fault("several_sentences")
    if _PREAMBLE.match(question) or re.match(r"^(?:\d+[.)]|[-*•])\s", question) or ";" in question.rstrip(";"):
        return Fault("list_or_preamble")
    if question.count('"') % 2 or question.count("(") != question.count(")"):
        return Fault("not_language", "an unpaired quotation mark or bracket")
    if pointer := points_at_text(question):
        return Fault("points_at_text", pointer)
    first = re.match(r"\W*([a-zA-Z]+)", question)
    if language == "en" and question.isascii() and (not first or first.group(1).lower() not in _OPENERS):
        return Fault("not_a_question", "does not begin like a question")
    return _repeats(question)


def points_at_text(question: str) -> str:
    """The words with which a question points at a text that its reader does not see; "" if it does not."""
    match = _DEIXIS.search(question)
    return match.group() if match else ""


_MARK = re.compile("[?？؟՞፧]")
_GREEK = re.compile("[\u0370-\u03ff]")


def _ends_as_question(question: str, unspaced: bool) -> bool:
    if question.endswith(("?", "？", "؟", "፧")) or "՞" in question or question.startswith("¿"):
        return True
    if question.endswith((";", "\u037e")):  # the question mark of Greek
        return _GREEK.search(question) is not None
    return unspaced and ASKS_WITHOUT_MARK.search(question) is not None


def _repeats(question: str) -> Fault | None:
    """ "the difference between X and X", and stuttering."""
    said = [w.lower() for w in words(question)]
    if match := re.search(
        r"between (?:the |a |an )?(.{2,40}?) and (?:the |a |an )?(.{2,40}?)(?: in\b.*)?\?$", question, re.IGNORECASE
    ):
        left, right = content_words(match.group(1)), content_words(match.group(2))
        if left == right or fuzz.ratio(match.group(1).lower(), match.group(2).lower()) > 90:
            return Fault("stutters", match.group())
    if any(said[i : i + 3] == said[i + 3 : i + 6] for i in range(len(said) - 5)) or len(set(said)) < 0.6 * len(said):
        return Fault("stutters", "says the same words again")
    return None


def common_words(chunks: Sequence[Chunk], *, min_share: float = 0.3, language: str = "en") -> frozenset[str]:
    """Content words that at least `min_share` of the documents use (5 documents or more)."""
    by_document: dict[str, set[str]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, set()).update(content_words(chunk.text, language))
    uses = Counter(word for own in by_document.values() for word in own)
    return frozenset(w for w, n in uses.items() if n >= max(5, min_share * len(by_document)))


def grounded(
    question: str,
    text: str,
    title: str = "",
    *,
    common: frozenset[str] = frozenset(),
    min_share: float = 0.75,
    language: str = "en",
) -> Fault | None:
    """The question's own words come from the chunk or its title, and at least one of them is specific.

    Of a run without spaces those characters are the chunk's that stand beside one of their neighbours there as well.

    Args:
        common: words of the whole corpus that count as the chunk's own (`common_words`).
        min_share: of the question's words that must be the chunk's.
        language: of the corpus, as an ISO 639 code.
    """
    own = content_words(RUN.sub(" ", question), language) - _FRAME
    have = content_words(text, language) | content_words(title, language) | common
    in_runs, foreign_in_runs = _run_words(question, text, title)
    foreign = [*sorted(own - have), *foreign_in_runs]
    count = len(own) + in_runs
    if own and not has_stop_words(language):  # some of them carry no meaning
        min_share -= 0.2
    if not count:
        return Fault("unspecific", "no word of its own")
    if count - len(foreign) < min_share * count:
        return Fault("not_grounded", "not in the chunk: " + ", ".join(foreign[:5]))
    # a name in quotation marks that the chunk lacks is made up, whatever the share
    for name in re.findall(r"[\"“`「『]([^\"”`」』]+)[\"”`」』]", question):
        if not content_words(name, language) <= have:
            return Fault("not_grounded", f"{name!r} is not in the chunk")
    return None


def _run_words(question: str, text: str, title: str) -> tuple[float, list[str]]:
    """About how many words the question's runs without spaces are, what asks left out, and those the text has not."""
    if question.isascii():
        return 0, []
    plain = alike(question)
    have = {piece for run in RUN.findall(f"{alike(text)} {alike(title)}") for piece in pieces(run)}
    count, foreign = 0, []
    for run in RUN.findall(IN_RUNS.sub(" ", plain)):
        letters = LETTER.findall(run)
        if len(letters) == 1:  # what is left of a word
            continue
        own = list(pieces(run))
        size = len(letters) - len(own) + 1
        known = {at + step for at, piece in enumerate(own) if piece in have for step in range(size)}
        count += len(letters)
        foreign += [letter for at, letter in enumerate(letters) if at not in known]
    return count, foreign


def copies(question: str, text: str, *, max_run: int = 12, max_share: float = 0.8) -> Fault | None:
    """Fails a question that is a stretch of the text with a question mark."""
    mine, theirs = stems(question), stems(text)
    if not mine:
        return None
    if is_unspaced(question):  # pieces, about two to a word
        max_run *= 2
    run = SequenceMatcher(None, mine, theirs, autojunk=False).find_longest_match().size
    if run > max_run or run > max_share * len(mine):
        return Fault("copy", f"{run} of {len(mine)} words in a row are the text's")
    return None


class Duplicates:
    """Remembers questions and finds the earlier one that a new one repeats, by normal form or token-set ratio."""

    def __init__(self, *, min_ratio: float = 95.0) -> None:
        self._min_ratio = min_ratio
        self._forms: list[str] = []
        self._said: list[str] = []
        self._exact: dict[tuple[str, frozenset[str]], str] = {}
        self._sorted: dict[tuple[int, frozenset[str]], list[str]] = {}  # words in order of the alphabet

    def first(self, question: str) -> str | None:
        """The earlier question this one repeats; otherwise None, and the question is remembered."""
        form, own = " ".join(stems(question)), names(question)
        if (form, own) in self._exact:
            return self._exact[form, own]
        if is_unspaced(question):  # one other character of thirty can make it another question
            self._exact[form, own] = question
            return None
        if self._may_repeat(form, own) and (earlier := self._repeated(form, own)):
            return earlier
        self._exact[form, own] = question
        self._forms.append(form)
        self._said.append(question)
        self._sorted.setdefault((len(form.split()), own), []).append(_in_order(form))
        return None

    def _may_repeat(self, form: str, own: frozenset[str]) -> bool:
        """Whether an earlier question meets all demands of `_repeated` but the token-set ratio, which is slow to take.

        The token-sort ratio is the plain ratio of the words in order, so few of the earlier ones are looked at.
        """
        count, least = len(form.split()), self._min_ratio - 5
        some = [self._sorted.get((words_in_it, own), ()) for words_in_it in (count - 1, count, count + 1)]
        mine = _in_order(form)
        return any(process.extractOne(mine, forms, scorer=fuzz.ratio, score_cutoff=least) for forms in some if forms)

    def _repeated(self, form: str, own: frozenset[str]) -> str | None:
        # token_set_ratio is 100 when one question's words contain the other's, so lengths must be alike as well
        near = process.extract(form, self._forms, scorer=fuzz.token_set_ratio, score_cutoff=self._min_ratio, limit=5)
        for other, _, at in near:
            alike = fuzz.token_sort_ratio(form, other) >= self._min_ratio - 5
            if alike and abs(len(other.split()) - len(form.split())) <= 1 and own == names(self._said[at]):
                return self._said[at]
        return None


def _in_order(form: str) -> str:
    return " ".join(sorted(form.split()))


def names(question: str) -> frozenset[str]:
    """What must be equal for two questions to be the same: numbers, quoted names, identifiers."""
    quoted = re.findall(r"[\"“`]([^\"”`]+)[\"”`]", question)
    coded = [w for w in words(question) if "_" in w or any(c.isdigit() for c in w)]
    return frozenset(q.lower() for q in [*quoted, *coded])
