"""Which language a text is written in, told from its first characters by py3langid, whose model is in its wheel.

The same text always gives the same answer, and none where it is too short or no language fits clearly (code, tables,
numbers). What is done with the answer is `corpus`' business.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data.text.unspaced import LETTER
from raft_errors import BadInput

LOOK_AT = 2000  # characters: a fifth of a millisecond
_FEWEST_LETTERS = 20  # a character of a script without spaces counts as two
_LEAST_PROBABILITY = 0.5
SAMPLE = 200  # texts of a corpus
_LOOK_AT_EACH = 500
_NOT_A_LANGUAGE = "zxx"  # ISO 639's code for text without words
_loading = threading.Lock()


def language_of(text: str) -> str | None:
    """ISO 639 code (`en`, `de`, `zh`, ...), or None where the text does not tell.

    Example:
        language_of("Der Hund schläft den ganzen Tag auf dem Sofa.")  # "de"
    """
    head = text[:LOOK_AT]
    if sum(character.isalpha() for character in head) + len(LETTER.findall(head)) < _FEWEST_LETTERS:
        return None
    language, probability = _identifier().classify(head)
    return None if probability < _LEAST_PROBABILITY or language == _NOT_A_LANGUAGE else language


def main_language(texts: Sequence[str]) -> str:
    """ISO 639 code of the language that most of the texts are in; `en` where none tells.

    Looks at `SAMPLE` of them, spread evenly, several short ones together: a corpus tells more than a sentence.
    """
    if not texts:
        return "en"
    step = max(1, len(texts) // SAMPLE)
    blocks = [""]
    for text in texts[::step]:
        if len(blocks[-1]) >= LOOK_AT:
            blocks.append("")
        blocks[-1] += text[:_LOOK_AT_EACH] + "\n"
    counts = Counter(language for block in blocks if (language := language_of(block)))
    return max(counts, key=lambda language: (counts[language], language), default="en")


def snowball_of(language: str) -> str:
    """The Snowball stemmer for a language by its ISO 639 code; "" where there is none."""
    return _SNOWBALL.get(language, "")


_SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "nb": "norwegian", "ne": "nepali", "nl": "dutch", "nn": "norwegian",
    "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "st": "sesotho", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip


def prepare() -> None:
    """Loads the model (half a second), so that it can be done in a thread beside other work."""
    _identifier()


def check_languages(codes: Sequence[str]) -> None:
    """Raises BadInput for a code that is never given to a text."""
    if codes and (unknown := sorted(set(codes) - (known := set(_identifier().labels) - {_NOT_A_LANGUAGE}))):
        raise BadInput(
            f"Language {', '.join(map(repr, unknown))} is not told apart",
            expected=f"codes of ISO 639 among {' '.join(sorted(known))}",
            do="correct ingest.languages",
        )


def _identifier() -> Any:
    with _loading:
        return _load()


@functools.cache
def _load() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
