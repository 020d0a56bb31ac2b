"""What a file's charset means to Python, and the guess of a single-byte encoding where none is stated.

Files state charsets by the names of the web, which are wider than the standards of the same name: a page in `gb2312`
holds GBK. The guess is charset-normalizer's, told apart by the alphabets of languages: related code pages score alike
on short texts (French reads as well in Windows-1250, but for a few letters that French does not have), and a candidate
whose every non-ASCII letter belongs to one language's alphabet is the likelier one.
"""

from __future__ import annotations

import codecs
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


_WEB_NAMES = {
    ("utf_8",): "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8 utf8mb3 utf8mb4",
    ("cp932", "shift_jis_2004"): "shift_jis shift-jis sjis x-sjis ms_kanji csshiftjis windows-31j x-windows-31j "
    "windows-932 ms932 x-ms-cp932 cp943 ibm943",
    ("euc_jp", "euc_jis_2004"): "euc-jp eucjp x-euc-jp x-eucjp cseucpkdfmtjapanese eucjp-ms eucjp-open",
    ("cp949",): "euc-kr euckr ks_c_5601-1987 ks_c_5601-1989 ks_c_5601 ksc5601 ksc_5601 ksc5601-1987 cseuckr "
    "csksc56011987 iso-ir-149 korean windows-949 x-windows-949 ms949 uhc x-euc-kr",
    ("gb18030",): "gb2312 gb_2312 gb_2312-80 gb2312-80 gbk x-gbk chinese csgb2312 csiso58gb231280 iso-ir-58 euc-cn "
    "euccn x-euc-cn cp936 ms936 windows-936 x-ms-936",
    ("cp950", "big5hkscs"): "big5 big-5 x-big5 cn-big5 csbig5 x-x-big5 big5-eten windows-950 x-windows-950 ms950",
    ("big5hkscs", "cp950"): "big5-hkscs big5hk x-big5-hkscs",
    ("cp1250",): "x-cp1250",
    ("cp1251",): "x-cp1251",
    ("cp1252", "latin_1"): "iso-8859-1 iso8859-1 iso_8859-1 iso88591 iso_8859-1:1987 iso-ir-100 csisolatin1 l1 latin1 "
    "latin-1 cp819 ibm819 ascii us-ascii ansi_x3.4-1968 x-cp1252 x-ansi",
    ("cp1253",): "x-cp1253",
    ("cp1254", "iso8859_9"): "iso-8859-9 iso8859-9 iso_8859-9 iso88599 iso_8859-9:1989 iso-ir-148 csisolatin5 l5 "
    "latin5 x-cp1254",
    ("cp1255",): "x-cp1255",
    ("cp1256",): "x-cp1256",
    ("cp1257",): "x-cp1257",
    ("cp1258",): "x-cp1258",
    ("cp874", "tis_620"): "tis-620 iso-8859-11 iso8859-11 iso885911 windows-874 dos-874 x-windows-874",
    ("iso8859_2",): "iso88592",
    ("iso8859_3",): "iso88593",
    ("iso8859_4",): "iso88594",
    ("iso8859_5",): "iso88595",
    ("iso8859_6",): "iso-8859-6-e iso-8859-6-i csiso88596e csiso88596i iso88596",
    ("iso8859_7",): "iso88597 sun_eu_greek",
    ("iso8859_8",): "iso-8859-8-e iso-8859-8-i csiso88598e csiso88598i iso88598 visual logical",
    ("iso8859_10",): "iso885910",
    ("iso8859_13",): "iso885913",
    ("iso8859_14",): "iso885914",
    ("iso8859_15",): "iso885915 csisolatin9",
    ("koi8_r",): "koi koi8",
    ("koi8_u",): "koi8-ru",
    ("mac_roman",): "mac csmacintosh x-mac-roman",
    ("mac_cyrillic",): "x-mac-cyrillic x-mac-ukrainian",
}
"""Names of the [Encoding Standard](https://encoding.spec.whatwg.org/#names-and-labels), and Microsoft's and Java's, by
the codecs that read them; where the first fails on a rare character, the next has it."""
_CODECS = {name: names for names, labels in _WEB_NAMES.items() for name in labels.split()}
_NO_CHARSETS = {"unicode-escape", "raw-unicode-escape", "punycode", "idna", "undefined", "mbcs", "oem", "utf-7"}


def codecs_of(charset: str) -> tuple[str, ...]:
    """The Python codecs that read what a file calls `charset`, in the order to try them; none for an unknown name."""
    label = charset.strip().lower()
    if names := _CODECS.get(label) or _CODECS.get(label.replace("_", "-")):
        return names
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return ()
    return () if name.replace("_", "-") in _NO_CHARSETS else (name,)


def guess_encoding(raw: bytes) -> str:
    """The name of the likeliest encoding of bytes that are not UTF-8; Windows-1252 where nothing fits."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(raw))
    close = [match.encoding for match in matches if match.chaos <= matches[0].chaos + _CLOSE]
    best, name = 0.0, ""
    for candidate in dict.fromkeys([*close, *_COMMON]):  # charset-normalizer's order where all else is equal
        try:
            text = codecs.getincrementaldecoder(candidate)().decode(raw)  # a sample may end inside a character
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
