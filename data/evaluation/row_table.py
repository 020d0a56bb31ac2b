"""Scored rows as a Parquet table, for whoever wants to look further than the report with pandas, DuckDB or Polars.

One line per question, setting and condition; slices and metrics are columns of their own, quotes and passages lists of
structures. The same rows give the same bytes. Scores come from `data.evaluation.scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.evaluation.scoring import METRICS

TEXTS = (
    *("record_id", "question_id", "setting", "condition", "question", "label", "group", "prediction"),
    *("final_answer", "finish_reason", "failed"),
)
FLAGS = ("oracle_present", "should_refuse", "refused")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of `score_row`. A metric that is undefined for a row is null, as in the row itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number, flag = pa.string(), pa.int64(), pa.bool_()
    passage = {"title": text, "source": text, "page": number, "oracle": flag, "text": text}
    quote = {"passage": number, "text": text, "verbatim": flag, "oracle": flag, "stands_in": number}
    slices = list(dict.fromkeys(name for row in rows for name in row["slices"]))
    columns: dict[str, tuple[Any, list[Any]]] = {}
    for name in TEXTS:
        columns[name] = text, [row[name] for row in rows]
    for name in FLAGS:
        columns[name] = flag, [row[name] for row in rows]
    columns["oracle_position"] = number, [row["oracle_position"] for row in rows]
    for name in ("answers", "flags"):
        columns[name] = pa.list_(text), [row[name] for row in rows]
    for name in slices:
        columns[f"slice_{name.replace(' ', '_')}"] = text, [row["slices"].get(name) for row in rows]
    for name in METRICS:
        columns[name] = pa.float64(), [row["metrics"].get(name) for row in rows]
    for name, fields in (("quotes", quote), ("passages", passage)):
        kind = pa.list_(pa.struct(list(fields.items())))
        columns[name] = kind, [[{f: item[f] for f in fields} for item in row[name]] for row in rows]
    table = pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})
    pq.write_table(table, path, compression="zstd")
