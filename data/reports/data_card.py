"""The card of a data set: what its records are, in figures that anyone can check, as Markdown, HTML and JSON.

It is written from the report of `compose_records`, with what the questions stage adds and a few sample records. It
computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import Record
from data.records.figures import passage_texts
from data.records.split_sides import SPLITS
from data.reports.charts import bar_chart
from data.reports.examples import highlight
from data.reports.page import render_page
from data.text.counts import counted

POLICY_WORDS = {
    "answer": "answer without quoting (the paper's choice)",
    "refuse": "refuse",
    "mix": "refuse in some, answer without quoting in others",
}
SPLIT_NOTES = {
    "document": "Split by document: no passage of a validation or test document stands in a training record.",
    "passage": "Split by passage, since there are too few independent documents: no held-out passage, nor a copy of an "
    "oracle among them, stands in a training record, but training sees other passages of the same documents.",
}


def write_data_card(
    folder: Path,
    report: Mapping[str, Any],
    *,
    title: str,
    extra: Mapping[str, Any] | None = None,
    samples: Sequence[Record] = (),
) -> None:
    """Writes `card.md`, `card.html` and `card.json` into the folder.

    `extra` (teacher, cost, licence) is shown and kept; `samples` are shown in the HTML as they are.
    """
    card = {"title": title, **report, **({"extra": dict(extra)} if extra else {})}
    text = json.dumps(card, ensure_ascii=False, indent=2, sort_keys=False)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    markdown = data_card_markdown(report, title=title, extra=extra)
    (folder / "card.md").write_text(markdown, encoding="utf-8", newline="\n")
    places = {p: {"records": float(n)} for p, n in report["oracle_position"]["histogram"].items()}
    origins = {o or "unnamed": {"distractors": float(n)} for o, n in report["distractor_origin"].items()}
    html = render_page(
        "card.html.jinja",
        title=title,
        lead=_lead(report).replace("`", ""),
        splits=SPLITS,
        split_note=_split_note(report),
        split_rows=_split_rows(report),
        facts=_facts(report, extra),
        position_chart=bar_chart(places, title="Place of the oracle", x_label="place among the passages"),
        origin_chart=bar_chart(origins, title="Distractors by origin", x_label="mined by"),
        samples=[_sample(r) for r in samples],
    )
    (folder / "card.html").write_text(html, encoding="utf-8", newline="\n")


def data_card_markdown(report: Mapping[str, Any], *, title: str, extra: Mapping[str, Any] | None = None) -> str:
    """The card as Markdown."""
    lines = [f"# {_cell(title)}", "", _lead(report), "", "## Splits", "", _split_note(report), ""]
    lines += ["|  | " + " | ".join(SPLITS) + " |", "|" + "---|" * (len(SPLITS) + 1)]
    lines += ["| " + " | ".join(_cell(str(c)) for c in row) + " |" for row in _split_rows(report)]
    lines += ["", "## Composition", ""]
    lines += [f"- {_cell(name)}: {_cell(value)}" for name, value in _facts(report, extra)]
    return "\n".join([*lines, ""])


def _lead(report: Mapping[str, Any]) -> str:
    records, questions = sum(report["records"].values()), report["questions"]
    return (
        f"{counted(records, 'RAFT record')} from {counted(questions, 'question')}, in Alpaca form: "
        "`instruction` (task and question), `input` (numbered passages), `output` (quotes, reasoning, answer) and "
        "`metadata`."
    )


def _split_note(report: Mapping[str, Any]) -> str:
    return SPLIT_NOTES[report.get("splits", {}).get("level", "document")]


def _split_rows(report: Mapping[str, Any]) -> list[list[Any]]:
    per = report["per_split"]
    return [
        ["records", *(per[s]["records"] for s in SPLITS)],
        ["documents asked about", *(per[s]["documents"] for s in SPLITS)],
        ["oracle shown", *(f"{per[s]['oracle_present']} ({per[s]['p_oracle']:.1%})" for s in SPLITS)],
        ["refusals", *(per[s]["refusals"] for s in SPLITS)],
        ["answers without oracle", *(per[s]["bare_answers"] for s in SPLITS)],
        ["on documents seen in training", *(per[s]["seen_documents"] for s in SPLITS)],
        ["tokens, median / 90 % / most", *(_lengths(per[s]["tokens"]) for s in SPLITS)],
        ["tokens to be learnt, median / 90 % / most", *(_lengths(per[s]["output_tokens"]) for s in SPLITS)],
    ]


def _places(report: Mapping[str, Any]) -> str:
    """Whether oracles stand where they are meant to."""
    if report["order"] == "retrieved":
        return "passages stand as the retriever ranks them"
    return f"chi-square p = {report['oracle_position']['p_value']:.3f} for equally likely places"


def _facts(report: Mapping[str, Any], extra: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(name, value) of everything that is not given by split."""
    position, quotes, false = report["oracle_position"], report["quotes"], report["false_distractors"]
    splits = report.get("splits", {})
    facts = [
        (
            "Share of oracles",
            f"P = {report['p_oracle_asked']:g}; without its oracle a record is to "
            f"{POLICY_WORDS[report['absent_policy']]}",
        ),
        ("Place of the oracle", f"{_pairs(position['histogram'])}; {_places(report)}"),
        ("Passages per record", _pairs(report["passages"])),
        ("Distractors by origin", _pairs(report["distractor_origin"])),
        (
            "Records with a distractor that holds an accepted answer",
            f"{false['found']} of {false['tested']} ({false['rate']:.1%})",
        ),
        ("Candidates left out", _pairs(report["candidates_left_out"])),
        (
            "Quotes",
            f"{quotes['quotes']}, of which {quotes['verbatim']} verbatim in the passage they cite; "
            f"records that show an oracle and quote nothing: {quotes['records_with_oracle_but_no_quote']}",
        ),
        (
            "Distractors of test records that training showed too",
            str(report["training_passages_beside_test_questions"]),
        ),
        ("Leaks found between splits", str(report["leaks"])),
        ("Questions dropped", _pairs(report["dropped"])),
        ("Kinds of question", _pairs(report["kinds"])),
        ("Origins", _pairs(report["origins"])),
        ("Document types", _pairs(report["document_types"])),
    ]
    if "joined" in splits:
        facts.append(
            (
                "Documents kept on one side",
                f"{counted(splits['groups_of_several'], 'group')}; {_pairs(splits['joined'])}",
            )
        )
        copies, documents = splits["joined"].get("near_duplicate_document", 0), sum(splits["documents"].values())
        facts.append(
            ("Near-duplicates of another document", f"{copies} of {documents} ({copies / max(1, documents):.1%})")
        )
    facts.append(
        (
            "Made with",
            f"template {report['template']} version {report['template_version']}, seed {report['seed']}, at most "
            f"{report['max_tokens']} tokens",
        )
    )
    for key, value in (extra or {}).items():
        facts.append((key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return facts


def _sample(record: Record) -> dict[str, Any]:
    meta = record.metadata
    quotes = [q["text"] for q in meta["quotes"]]
    return {
        "question": meta["question"],
        "tags": [meta["split"], "oracle shown" if meta["oracle_present"] else "no oracle", meta["label"]],
        "instruction": record.instruction,
        "output": highlight(record.output, quotes),
        "passages": [
            {**row, "oracle": row["role"] == "oracle", "text": highlight(text, quotes)}
            for row, text in passage_texts(record)
        ],
    }


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{str(k).replace('_', ' ') or 'unnamed'}: {v}" for k, v in counts.items() if v) or "none"


def _lengths(spread: Mapping[str, float]) -> str:
    return f"{spread['p50']} / {spread['p90']} / {spread['max']}"
