"""Whether an embedder speaks the language of a corpus, told before anything is embedded: by its card, name and tokens.

A model that has not learnt a language still gives vectors, and nothing else would say that they mean little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from tokenizers import Tokenizer

from data.loading.languages import main_language

SPEAKS_MANY = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 (50 languages) or BAAI/bge-m3 (100)"
MOST_UNKNOWN = 0.1
"""Share of a text's tokens that a model may not know."""

_ENGLISH = re.compile(
    r"all-(?:MiniLM|mpnet|distilroberta|roberta)|msmarco|multi-qa|nli-|-en\b|-en-|/(?:e5|gte)-(?:small|base|large)",
    re.IGNORECASE,
)
_MANY = re.compile(r"multilingual|bge-m3|xlm|labse", re.IGNORECASE)
_SAMPLE = 200  # texts


def advice(name: str, folder: Path, texts: Sequence[str]) -> str:
    """What to say of an embedder that seems not to speak the language of most texts; "" where it seems to.

    Args:
        name: of the model, as it was asked for. folder: its files; a card (README.md) there is believed first.
    """
    language = main_language(texts)
    spoken = _card_languages(folder / "README.md")
    if spoken is None:
        spoken = {"en"} if _ENGLISH.search(name) and not _MANY.search(name) else set()
    unknown = _unknown_share(folder / "tokenizer.json", texts)
    if spoken and language not in spoken and not spoken & {"multilingual", "mul"}:
        reason = f"it is said to speak {', '.join(sorted(spoken)[:5])}"
    elif unknown > MOST_UNKNOWN:
        reason = f"it does not know {unknown:.0%} of the tokens"
    else:
        return ""
    return (
        f"most of the corpus is in language {language!r}, and the embedder {name} is not for it: {reason}. "
        f"Set models.embedder to one that speaks it, such as {SPEAKS_MANY}, or retrieval.mode to lexical"
    )


def _card_languages(card: Path) -> set[str] | None:
    """The ISO 639 codes in the card's front matter; None where it has none."""
    try:
        head = card.read_text(encoding="utf-8").split("---\n", 2)
        given = yaml.safe_load(head[1])["language"] if not head[0].strip() else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, yaml.YAMLError):
        return None
    codes = [given] if isinstance(given, str) else given
    return {str(code).lower().split("-")[0] for code in codes} if isinstance(codes, list) and codes else None


def _unknown_share(file: Path, texts: Sequence[str]) -> float:
    """The share of the tokens of some texts that the tokenizer does not know."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # noqa: BLE001  tokenizers raises bare exceptions; a model without the file brings another kind
        return 0.0
    tokenizer.no_truncation()
    unknown = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")} - {None}
    sample = list(texts[:: max(1, len(texts) // _SAMPLE)])
    ids = [i for encoding in tokenizer.encode_batch(sample, add_special_tokens=False) for i in encoding.ids]
    return sum(i in unknown for i in ids) / max(1, len(ids))
