"""The guess of a single-byte encoding: charset-normalizer's candidates, told apart by the alphabets of languages.

Related code pages score alike on short texts (French reads as well in Windows-1250, but for a few letters that French
does not have). A candidate whose every non-ASCII letter belongs to one language's alphabet is the likelier one.
"""

from __future__ import annotations

from itertools import pairwise

ALPHABETS = (
    "àâæçéèêëîïôœùûüÿ",  # French
    "äöüß",  # German
    "áéíñóúüªº",  # Spanish
    "ãáâàçéêíóôõúüªº",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "àçèéíïòóúü·",  # Catalan
    "åäöé",  # Swedish, Finnish
    "æøåéôòâ",  # Danish, Norwegian
    "áéëïíóöúü",  # Dutch
    "áæéíðóöúýþ",  # Icelandic
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíĺľňóôŕšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "čćđšž",  # Croatian, Slovenian
    "ăâîșțşţ",  # Romanian
    "çğıöşüâîû\u0307",  # Turkish (dotted capital I folds to i and a dot)
    "ąčęėįšųūž",  # Lithuanian
    "āčēģīķļņšūž",  # Latvian
    "äõöüšž",  # Estonian
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",  # Russian, Bulgarian
    "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",  # Ukrainian
    "абвгдђежзијклљмнњопрстћуфхцчџш",  # Serbian
    "абвгдеёжзійклмнопрстуўфхцчшыьэюя",  # Belarusian
    "άέήίαβγδεζηθικλμνξοπρσςτυφχψωϊϋόύώΐΰ",  # Greek
    "אבגדהוזחטיךכלםמןנסעףפץצקרשת",  # Hebrew
    "ءآأؤإئابةتثجحخدذرزسشصضطظعغـفقكلمنهوىيًٌٍَُِّْ،؛؟",  # Arabic
)
PUNCTUATION = "\u00a0«»“”„‘’‚–—…°§€£©®·•¿¡№´"
_CLOSE = 0.03
_SURE = 0.98
_COMMON = ("cp1252", "cp1250", "cp1251", "koi8_r", "iso8859_2", "cp1254", "cp1253", "cp850", "mac_roman")
"""Tried where charset-normalizer did not think of them."""


def guess_encoding(raw: bytes) -> str:
    """The name of the likeliest encoding of bytes that are not UTF-8; Windows-1252 where nothing fits."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(raw))
    close = [match.encoding for match in matches if match.chaos <= matches[0].chaos + _CLOSE]
    best, name = 0.0, ""
    for candidate in dict.fromkeys([*close, *_COMMON]):  # charset-normalizer's order where all else is equal
        try:
            text = raw.decode(candidate)
        except (UnicodeDecodeError, LookupError):
            continue
        share = alphabet_share(text) - _odd_case(text)
        if share > best:
            best, name = share, candidate
    if best >= _SURE:
        return name
    return matches[0].encoding if matches else "cp1252"


def _odd_case(text: str) -> float:
    """The share of non-ASCII capitals that follow a small letter: many where letters are another encoding's."""
    foreign = sum(char > "\x7f" for char in text)
    odd = sum(a.islower() and b.isupper() and b > "\x7f" for a, b in pairwise(text))
    return odd / max(foreign, 1)


def alphabet_share(text: str) -> float:
    """The largest share of non-ASCII characters that one alphabet (with common punctuation) explains; 0 without any."""
    foreign = [char for char in text.lower() if char > "\x7f"]
    if not foreign:
        return 0.0
    return max(sum(char in alphabet or char in PUNCTUATION for char in foreign) for alphabet in ALPHABETS) / len(
        foreign
    )
