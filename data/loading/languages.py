"""Which language a text is written in, told from its first characters by py3langid, whose model is in its wheel.

The same text always gives the same answer, and none where it is too short or no language fits clearly (code, tables,
numbers). What is done with the answer is `corpus`' business.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

from raft_errors import BadInput

LOOK_AT = 2000  # characters: a fifth of a millisecond
_FEWEST_LETTERS = 20
_LEAST_PROBABILITY = 0.5
_NOT_A_LANGUAGE = "zxx"  # ISO 639's code for text without words
_loading = threading.Lock()


def language_of(text: str) -> str | None:
    """ISO 639 code (`en`, `de`, `zh`, ...), or None where the text does not tell.

    Example:
        language_of("Der Hund schläft den ganzen Tag auf dem Sofa.")  # "de"
    """
    head = text[:LOOK_AT]
    if sum(character.isalpha() for character in head) < _FEWEST_LETTERS:
        return None
    language, probability = _identifier().classify(head)
    return None if probability < _LEAST_PROBABILITY or language == _NOT_A_LANGUAGE else language


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
