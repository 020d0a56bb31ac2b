"""The data-set card: what the records are, in figures that a person can check, as Markdown and JSON.

Written from the report of `compose_records`, with what the questions stage adds. Computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.splits import SPLITS

POLICY_WORDS = {
    "answer": "answer without quoting (the paper's choice)",
    "refuse": "refuse",
    "mix": "refuse in some, answer without quoting in others",
}


def write_card(folder: Path, report: Mapping[str, Any], *, title: str, extra: Mapping[str, Any] | None = None) -> None:
    """Writes `card.md` and `card.json` into the folder; `extra` (teacher, cost, licence) is shown and kept."""
    card = {"title": title, **report, **({"extra": dict(extra)} if extra else {})}
    text = json.dumps(card, ensure_ascii=False, indent=2, sort_keys=False)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    markdown = card_markdown(report, title=title, extra=extra)
    (folder / "card.md").write_text(markdown, encoding="utf-8", newline="\n")


def card_markdown(report: Mapping[str, Any], *, title: str, extra: Mapping[str, Any] | None = None) -> str:
    """The card as Markdown."""
    position, quotes, false = report["oracle_position"], report["quotes"], report["false_distractors"]
    per = report["per_split"]
    lines = [
        f"# {_cell(title)}",
        "",
        f"{sum(report['records'].values())} RAFT records from {report['questions']} questions, in Alpaca form: "
        "`instruction` (task and question), `input` (numbered passages), `output` (quotes, reasoning, answer) and "
        "`metadata`.",
        "",
        "## Splits",
        "",
        "Split by document: no passage of a validation or test document stands in a training record.",
        "",
        *_table(
            ["", *SPLITS],
            [
                ["records", *(per[s]["records"] for s in SPLITS)],
                ["documents asked about", *(per[s]["documents"] for s in SPLITS)],
                ["oracle shown", *(f"{per[s]['oracle_present']} ({per[s]['p_oracle']:.1%})" for s in SPLITS)],
                ["refusals", *(per[s]["refusals"] for s in SPLITS)],
                ["answers without oracle", *(per[s]["bare_answers"] for s in SPLITS)],
                ["on documents seen in training", *(per[s]["seen_documents"] for s in SPLITS)],
                ["tokens, median / 90 % / most", *(_lengths(per[s]["tokens"]) for s in SPLITS)],
                ["tokens to be learnt, median / 90 % / most", *(_lengths(per[s]["output_tokens"]) for s in SPLITS)],
            ],
        ),
        "",
        "## Composition",
        "",
        f"- Oracle kept with P = {report['p_oracle_asked']:g}; without it the label is to "
        f"{POLICY_WORDS[report['absent_policy']]}.",
        f"- Place of the oracle: {_pairs(position['histogram'])}; chi-square p = {position['p_value']:.3f} "
        "for equally likely places.",
        f"- Passages a record: {_pairs(report['passages'])}.",
        f"- Distractors by origin: {_pairs(report['distractor_origin'])}.",
        f"- Records with a distractor that holds an accepted answer: {false['found']} of {false['tested']} "
        f"({false['rate']:.1%}).",
        f"- Candidates left out: {_pairs(report['candidates_left_out'])}.",
        f"- Quotes: {quotes['quotes']}, of which {quotes['verbatim']} verbatim in the passage they cite; "
        f"{quotes['records_with_oracle_but_no_quote']} records show an oracle and quote nothing.",
        f"- Distractors of test records that training showed too: {report['training_passages_beside_test_questions']}.",
        f"- Leaks found between splits: {report['leaks']}.",
        f"- Questions dropped: {_pairs(report['dropped'])}.",
        f"- Kinds of question: {_pairs(report['kinds'])}. Origins: {_pairs(report['origins'])}. "
        f"Document types: {_pairs(report['document_types'])}.",
        f"- Template `{_cell(report['template'])}` version `{report['template_version']}`, seed {report['seed']}, "
        f"at most {report['max_tokens']} tokens.",
    ]
    for key, value in (extra or {}).items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"- {_cell(key)}: {_cell(shown)}")
    return "\n".join([*lines, ""])


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(_cell(str(c)) for c in row) + " |" for row in rows),
    ]


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_cell(k or 'unnamed')} {v}" for k, v in counts.items()) or "none"


def _lengths(spread: Mapping[str, float]) -> str:
    return f"{spread['p50']} / {spread['p90']} / {spread['max']}"
