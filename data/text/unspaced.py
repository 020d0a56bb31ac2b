"""Scripts that put no space between words: Chinese, Japanese and Korean, Thai, Lao, Burmese and Khmer.

Their text is compared by characters: spaced out where a phrase is looked for, in pairs (of alphabets: in threes) where
texts are compared by what they share, as Lucene does for these languages. Korean writes spaces, but its particles
stick to the words. Text in other scripts is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from data.text.alike import MARKS

_SYLLABIC = (
    r"\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003fffd\u1100-\u115f\uac00-\ud7a3"
)
_ALPHABETIC = r"\u0e01-\u0e30\u0e32-\u0e33\u0e3f-\u0e46\u0e81-\u0edf\u1000-\u109f\u1780-\u17d3"
_LETTER = rf"[{_SYLLABIC}{_ALPHABETIC}][{MARKS}\u1160-\u11ff]*"
LETTER = re.compile(_LETTER)
"""One character of such a script, with its marks."""
RUN = re.compile(rf"(?:{_LETTER})+")
"""Characters of such scripts that nothing parts."""

NUMERALS = "〇零一二三四五六七八九十百千万萬億亿兆两兩壹贰叁肆伍陆柒捌玖拾佰仟"
"""Characters that write numbers: 十五 (15) stands in 二十五 (25), and is not what it says."""


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text are of such scripts."""
    if text.isascii():
        return False
    own = len(LETTER.findall(text))
    return 2 * own > own + sum(character.isalpha() for character in LETTER.sub("", text))


def spaced_out(text: str) -> str:
    """The text with each character of such a script set off by spaces, so that phrases begin and end at spaces."""
    return text if text.isascii() else " ".join(LETTER.sub(r" \g<0> ", text).split())


def pieces(run: str) -> Iterator[str]:
    """What a run is compared by: its pairs of characters, threes of an alphabet's; the run itself where it is short."""
    letters = LETTER.findall(run)
    size = 2 if re.match(rf"[{_SYLLABIC}]", run) else 3
    if len(letters) <= size:
        yield run
    else:
        yield from ("".join(letters[at : at + size]) for at in range(len(letters) - size + 1))


def in_pieces(text: str) -> str:
    """The text with each run of such a script as its pieces, parted by spaces."""
    return text if text.isascii() else RUN.sub(lambda run: f" {' '.join(pieces(run.group()))} ", text)


def word_count(text: str) -> int:
    """About how many words a text has: two characters of these scripts to a word, four of an alphabet's."""
    if text.isascii():
        return len(text.split())
    letters = LETTER.findall(text)
    alphabetic = sum(re.match(rf"[{_ALPHABETIC}]", letter) is not None for letter in letters)
    return len(LETTER.sub(" ", text).split()) + (len(letters) - alphabetic + 1) // 2 + (alphabetic + 3) // 4
