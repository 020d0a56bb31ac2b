"""Picks the questions that a reader of the report should look at, and marks the quotes in passages and replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from data.evaluation.comparison import HEADLINE
from data.evaluation.conditions import condition_words

EXAMPLES = 3


def example_groups(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[tuple[str, str, list]]:
    """(heading, note, cards) of the records where the other condition gained most, lost most, and was wrong."""
    base, other = summary["base"], summary["other"]
    both: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["setting"] == summary["headline_setting"] and not row["failed"]:
            both.setdefault(row["record_id"], {})[row["condition"]] = row
    changes = []
    for record, pair in sorted(both.items()):
        if base in pair and other in pair and pair[base]["metrics"][HEADLINE] is not None:
            changes.append((pair[other]["metrics"][HEADLINE] - pair[base]["metrics"][HEADLINE], record))
    best = [r for c, r in sorted(changes, key=lambda x: (-x[0], x[1])) if c > 0][:EXAMPLES]
    worst = [r for c, r in sorted(changes) if c < 0][:EXAMPLES]
    picks = {*best, *worst}
    wrong = [r for c, r in sorted(changes) if r not in picks and both[r][other]["metrics"][HEADLINE] == 0][:EXAMPLES]
    name = condition_words(other).lower()
    return [
        (
            f"Where the {name} gained most",
            "Quotes are highlighted in passages and replies.",
            _cards(best, both, base, other),
        ),
        (f"Where the {name} lost most", "Read these before trusting the average.", _cards(worst, both, base, other)),
        (
            f"Where the {name} was wrong",
            "No word in common with an accepted answer.",
            _cards(wrong, both, base, other),
        ),
    ]


def _cards(records: Iterable[str], both: Mapping[str, Any], base: str, other: str) -> list[dict[str, Any]]:
    cards = []
    for record in records:
        pair = both[record]
        change = pair[other]["metrics"][HEADLINE] - pair[base]["metrics"][HEADLINE]
        quotes = [q["text"] for c in (base, other) for q in pair[c]["quotes"] if q["verbatim"]]
        cards.append(
            {
                "question": pair[other]["question"],
                "answers": "; ".join(pair[other]["answers"]),
                "change": f"F1 {100 * change:+.0f}",
                "replies": [
                    {
                        "name": condition_words(c),
                        "text": highlight(pair[c]["prediction"] or "(empty)", [q["text"] for q in pair[c]["quotes"]]),
                        "tags": [
                            f"F1 {100 * pair[c]['metrics'][HEADLINE]:.0f}",
                            *(f.replace("_", " ") for f in pair[c]["flags"]),
                        ]
                        + [_quote_tag(q) for q in pair[c]["quotes"]],
                    }
                    for c in (base, other)
                ],
                "passages": [{**p, "text": highlight(p["text"], quotes)} for p in pair[other]["passages"]],
            }
        )
    return cards


def _quote_tag(quote: Mapping[str, Any]) -> str:
    if not quote["verbatim"]:
        passage = quote["stands_in"]
        return f"quote of [{passage}], cited as [{quote['passage']}]" if passage else "quote not verbatim"
    return "quotes the oracle" if quote["oracle"] else "quotes a distractor"


def highlight(text: str, quotes: Sequence[str]) -> Markup:
    """The escaped text with each quote that stands in it marked; overlapping marks are merged."""
    inside = [False] * len(text)
    for quote in quotes:
        start = text.find(quote) if quote else -1
        if start >= 0:
            inside[start : start + len(quote)] = [True] * len(quote)
    out, run = [], 0
    for i in range(1, len(text) + 1):
        if i == len(text) or inside[i] != inside[run]:
            piece = escape(text[run:i])
            out.append(Markup("<mark>{}</mark>").format(piece) if inside[run] else piece)
            run = i
    return Markup("").join(out)
