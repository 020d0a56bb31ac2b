"""The guess of a single-byte encoding: charset-normalizer's candidates, told apart by the alphabets of languages.

Related code pages score alike on short texts (French reads as well in Windows-1250, but for a few letters that French
does not have). A candidate whose every non-ASCII letter belongs to one language's alphabet is the likelier one.
"""

from __future__ import annotations

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


def guess_encoding(raw: bytes) -> str:
    """The name of the likeliest encoding of bytes that are not UTF-8; Windows-1252 where nothing fits."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(raw))
    if not matches:
        return "cp1252"
    close = [match for match in matches if match.chaos <= matches[0].chaos + _CLOSE]
    scored = [(alphabet_share(str(match)), match.encoding) for match in close]
    best = max(share for share, _ in scored)
    if best < _SURE:
        return matches[0].encoding
    return next(name for share, name in scored if share == best)  # charset-normalizer's order where all else is equal


def alphabet_share(text: str) -> float:
    """The largest share of non-ASCII characters that one alphabet (with common punctuation) explains; 0 without any."""
    foreign = [char for char in text.lower() if char > "\x7f"]
    if not foreign:
        return 0.0
    return max(sum(char in alphabet or char in PUNCTUATION for char in foreign) for alphabet in ALPHABETS) / len(
        foreign
    )
