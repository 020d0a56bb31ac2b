"""What changed between two data sets of records, question by question, and why.

Compares the written records alone, so it works on any two folders that the records stage has written. Used by
`raft records --diff A B`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from data.nouns import Record
from data.text.counts import counted


@dataclass(frozen=True)
class RecordDiff:
    """Question ids by what happened to them; `why` counts the reasons for changed records (one may have several)."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    same: int
    why: dict[str, int] = field(default_factory=dict)
    documents_retired: list[str] = field(default_factory=list)
    documents_new: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, one fact per line."""
        used = ("document is", "documents are")
        out = [
            f"{counted(self.same, 'record is', 'records are')} the same",
            f"{len(self.changed)} changed: " + (", ".join(f"{n} {w}" for w, n in self.why.items()) or "none"),
            f"{counted(len(self.added), 'was', 'were')} added, {len(self.removed)} removed",
        ]
        if self.documents_retired:
            out.append(f"{counted(len(self.documents_retired), *used)} no longer used, as oracle or distractor")
        if self.documents_new:
            out.append(f"{counted(len(self.documents_new), *used)} used for the first time")
        return out


def diff_records(before: Iterable[Record], after: Iterable[Record]) -> RecordDiff:
    """Compares two sets of records (all splits of each) by question id; ids are sorted."""
    old = {_name(r): r for r in before}
    new = {_name(r): r for r in after}
    both = sorted(old.keys() & new.keys())
    changed = [q for q in both if _content(old[q]) != _content(new[q])]
    why = Counter(reason for q in changed for reason in _reasons(old[q], new[q]))
    used_before, used_after = _documents(old.values()), _documents(new.values())
    return RecordDiff(
        added=sorted(new.keys() - old.keys()),
        removed=sorted(old.keys() - new.keys()),
        changed=changed,
        same=len(both) - len(changed),
        why=dict(sorted(why.items())),
        documents_retired=sorted(used_before - used_after),
        documents_new=sorted(used_after - used_before),
    )


def _name(record: Record) -> str:
    """The question's id, with a number for each further arrangement of its passages."""
    turn = record.metadata.get("arrangement", 0)
    return f"{record.metadata['question_id']}+{turn}" if turn else str(record.metadata["question_id"])


def _content(record: Record) -> tuple[str, str, str, str]:
    return record.instruction, record.input, record.output, record.metadata["split"]


def _reasons(old: Record, new: Record) -> list[str]:
    checks = {
        "split": ("split",),
        "oracle": ("oracle_ids",),
        "oracle shown or not": ("oracle_present",),
        "distractors": ("distractor_ids",),
        "template": ("template_version",),
    }
    reasons = [name for name, keys in checks.items() if any(_order_free(old, k) != _order_free(new, k) for k in keys)]
    if "oracle shown or not" not in reasons and "template" not in reasons and _plain(old) != _plain(new):
        reasons.append("answer")
    return reasons or ["wording"]


def _order_free(record: Record, key: str) -> Any:
    value = record.metadata[key]
    return sorted(value) if isinstance(value, list) else value


def _plain(record: Record) -> tuple[Any, ...]:
    meta = record.metadata
    return (meta["answers"], meta["label"], sorted((q["chunk_id"], q["text"]) for q in meta["quotes"]))


def _documents(records: Iterable[Record]) -> set[str]:
    return {row["document_id"] for r in records for row in r.metadata["passages"]}
