"""Full stops that end no sentence in languages other than English: ordinals such as `3. Oktober`, and abbreviations.

Every rule needs a word that no English text has at that place, so that English sentences end where they did.
"""

from __future__ import annotations

import re

_ABBREVIATIONS = frozenset(
    ["abb", "abschn", "allg", "bspw", "bzgl", "bzw", "dipl", "evtl", "exkl", "ggf", "ggfs", "hrsg", "ing", "inkl",
     "insb", "insbes", "lfd", "mio", "mrd", "nr", "sog", "vgl", "zzgl", "z.b", "z.t", "z.zt", "z.hd", "d.h", "u.a",
     "u.u", "o.ä", "i.d.r", "bl.a", "f.eks", "t.ex", "p.ex", "bijv", "mlle", "mme", "mmes", "sra", "sras", "srta",
     "srtas", "dña", "dra", "dras", "núm", "págs", "sig.ra", "ust", "inż"]
)  # fmt: skip
_SPACED = {"z": ("B.", "T.", "Zt.", "Hd."), "u": ("U.", "Ä."), "o": ("Ä.",), "i": ("A.", "V."), "d": ("R.",)}
"""The first letter of a spaced abbreviation, with what may follow: `z. B.`, `u. U.`, `i. d. R.`"""
_BEFORE_REFERENCE = frozenset(["Abs", "Art", "Bd", "Kap", "Ziff", "Rn", "Rz", "Anm"])
"""Abbreviations that stand before a number, and might be words elsewhere."""
_REFERENCE = re.compile(r"§|Art\.|Abs\.|Nr\.|Ziff\.|Anl\.|DIN\b")

_OWN_MONTH = re.compile(r"(?:Jänner|Januar|Feber|Februar|März|Juni|Juli|Oktober|Dezember|Okt\.|Dez\.)(?!\w)")
_SHARED_MONTH = re.compile(
    r"(?:Jan\.|Feb\.|Apr\.|Aug\.|Sept?\.|Nov\.|(?:April|Mai|August|September|November|December)(?!\w))"
)
_OWN_NOUN = re.compile(
    r"(?:Jahrhundert|Jahrtausend|Jahrestag|Jahrgang|Geburtstag|Lebensjahr|Stockwerk|Obergeschoss|Etage|Kapitel|Klasse"
    r"|Auflage|Weltkrieg|Abschnitt|Absatz|Schuljahr|Bundesliga|Spieltag|Sitzung|Sinfonie)(?:e?s|e?n|e)?(?!\w)"
)
_ARTICLE = re.compile(r"(?<!\w)(?:im|vom|zum|zur|beim|ins|der|dem|den|jede[nrsm]?)\s+\d+$", re.I)
_DATE_BEFORE = re.compile(
    r"(?<!\w)(?:am|ab|seit|bis|den|der|dem|des|vom|zum|im|und|nach|vor|til|fra|d\.|dne|\d{1,2}\.\s*[–-])\s*\d{1,2}$",
    re.I,
)
_STREET = re.compile(r"(?:^|(?<!\w)(?:przy|na|przez|od|do|z|w|ze|[,(]))\s*[uU]l$")
"""Polish for "street" before its name; HTML has a `ul` of its own."""
_ENGLISH_AM = re.compile(r"\bI\s+am\s+\d+$")


def goes_on(before: str, last: str, rest: str) -> bool:
    """Whether a sentence goes on after a full stop.

    Args:
        before: the sentence up to the full stop.
        last: its last word.
        rest: what follows the full stop and the space behind it.
    """
    if last.isdecimal():
        return len(last) <= 3 and _is_ordinal(before[-40:], last, rest)
    if last.lower() in _ABBREVIATIONS:
        return True
    if last in _SPACED and rest.startswith(_SPACED[last]):
        return last != "d" or before.endswith("i. d")
    if last in ("ul", "Ul"):
        return rest[0].isupper() and bool(_STREET.search(before))
    if last in _BEFORE_REFERENCE:
        return rest[0].isdecimal()
    return last == "gem" and bool(_REFERENCE.match(rest))


def _is_ordinal(before: str, last: str, rest: str) -> bool:
    if _OWN_NOUN.match(rest):
        return True
    if int(last) <= 31 and (_OWN_MONTH.match(rest) or (_SHARED_MONTH.match(rest) and _DATE_BEFORE.search(before))):
        return not _ENGLISH_AM.search(before)
    return rest[0].isalpha() and bool(_ARTICLE.search(before))
