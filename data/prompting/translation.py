"""The built-in prompt templates in the languages of `templates/languages.json`, sentence by sentence.

What is matched by machines stays: the marks of quotes and answers. Knows templates as texts only.
"""

from __future__ import annotations

import json
from pathlib import Path

_WORDS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "templates" / "languages.json").read_text(encoding="utf-8")
)
LANGUAGES = frozenset(_WORDS)
"""ISO 639 codes."""

_QUOTE = (
    "Answer the question from the numbered passages: quote the words that hold the answer as "
    "{{ begin_quote }}words{{ end_quote }}, then write {{ answer_marker }} and the answer."
)
_DIRECT = "Answer the question from the numbered passages: write {{ answer_marker }} and the answer."
_REFUSE = " If no passage holds it, write {{ answer_marker }} {{ refusal }}"
_END = "{{ end_quote }}"


def translated(sources: tuple[str, ...], language: str) -> tuple[str, ...] | None:
    """Instruction, input, output and contract of a built-in template in another language; None where there is none."""
    if language not in _WORDS:
        return None
    words = _WORDS[language]
    sentences = {
        _QUOTE.replace(_END, f"{_END} [number]"): words["quote"].replace(_END, f"{_END} [{words['number']}]"),
        _QUOTE: words["quote"],
        _DIRECT: words["direct"],
        _REFUSE: words["refuse"],
        "Question:": words["question"],
    }
    instruction, shown, output, contract = sources
    for english, translation in sentences.items():
        instruction, shown = instruction.replace(english, translation), shown.replace(english, translation)
    fields = {**json.loads(contract), "refusal": words["refusal"]}
    return instruction, shown, output, json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
