"""Records in the layouts that other trainers read as they are: Alpaca and chat JSON Lines, Parquet.

The columns are those that LLaMA-Factory and Axolotl document. The Alpaca triple alone is always enough to train;
`metadata` is there for those who want to look.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import Record, write_jsonl
from raft_errors import BadInput

FORMATS = ("alpaca", "chat", "parquet")


def chat_row(record: Record) -> dict[str, Any]:
    """`messages`: the user's prompt and the assistant's answer, in the form that chat trainers read."""
    return {"messages": record.messages, "metadata": record.metadata}


def write_records(folder: Path, by_split: Mapping[str, Sequence[Record]], *, formats: Iterable[str]) -> list[Path]:
    """Writes `<split>.jsonl` (alpaca), `<split>.chat.jsonl` and `<split>.parquet`, and how to load them elsewhere.

    `dataset_info.json` is LLaMA-Factory's registry for the folder, from which a training chooses by name;
    `axolotl.yaml` holds the sections `datasets` and `test_datasets` for Axolotl, which trains on all that they list.
    `README.md` tells `datasets.load_dataset(folder)` which files are one set: Alpaca and chat are two configurations.
    In Parquet and the chat form `metadata` is kept. Empty splits are not written, a folder that is not there is made.
    Returns the files, sorted.
    """
    folder = Path(folder)
    if not isinstance(by_split, Mapping) or any(Path(str(split)).name != split for split in by_split):
        raise BadInput("records: no splits by name", expected='a mapping such as {"train": records}, of plain names')
    kinds = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    unknown = [f for f in kinds if f not in FORMATS]
    if unknown:
        raise BadInput(f"records: unknown format {unknown[0]!r}", expected=f"one of {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, records in by_split.items():
        if not records:
            continue
        if "alpaca" in kinds:
            paths.append(folder / f"{split}.jsonl")
            write_jsonl(paths[-1], records)
        if "chat" in kinds:
            paths.append(folder / f"{split}.chat.jsonl")
            write_jsonl(paths[-1], (chat_row(r) for r in records))
        if "parquet" in kinds:
            paths.append(folder / f"{split}.parquet")
            _write_parquet(paths[-1], records)
    names = [p.name for p in paths]
    registries = {"dataset_info.json": _llama_factory, "axolotl.yaml": _axolotl, "README.md": _datasets}
    for name, text in ((name, write(names)) for name, write in registries.items()):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
        paths.append(folder / name)
    return sorted(paths)


def _write_parquet(path: Path, records: Sequence[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Metadata as one JSON text: nested empty lists have no type that every reader agrees on.
    rows = [
        {
            "instruction": r.instruction,
            "input": r.input,
            "output": r.output,
            "metadata": json.dumps(r.metadata, ensure_ascii=False, sort_keys=True),
        }
        for r in records
    ]
    schema = pa.schema([(name, pa.string()) for name in ("instruction", "input", "output", "metadata")])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _llama_factory(names: Sequence[str]) -> str:
    alpaca = {"prompt": "instruction", "query": "input", "response": "output"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info: dict[str, Any] = {}
    for name in names:
        key = "raft_" + name.removesuffix(".jsonl").replace(".", "_")
        if name.endswith(".chat.jsonl"):
            columns = {"messages": "messages"}
            info[key] = {"file_name": name, "formatting": "sharegpt", "columns": columns, "tags": tags}
        else:
            info[key] = {"file_name": name, "formatting": "alpaca", "columns": alpaca}
    return json.dumps(info, indent=2) + "\n"


def _axolotl(names: Sequence[str]) -> str:
    """The `datasets` and `test_datasets` of an Axolotl configuration: every record once, in the form that keeps the
    prompt. Axolotl trains on all that is listed, and its type `alpaca` puts a preamble of its own before the prompt."""
    form = "chat.jsonl" if any(name.endswith(".chat.jsonl") for name in names) else "jsonl"
    if not any(name.endswith(".jsonl") for name in names):
        form = "parquet"
    lines = ["# for an Axolotl configuration; put the folder before each path"]
    if form != "chat.jsonl":
        lines.append("# type alpaca adds a preamble to the prompt: with `chat` among records.formats there is none")
    for section, split in (("datasets", "train"), ("test_datasets", "validation")):
        name = f"{split}.{form}"
        if name in names:
            kind = "parquet" if form == "parquet" else "json"
            # a file has one split, which `datasets` calls train; Axolotl wants it named for a test set
            lines += [f"{section}:", f"  - path: {name}", f"    ds_type: {kind}", "    split: train"]
            if form == "chat.jsonl":
                lines += ["    type: chat_template", "    field_messages: messages", "    roles_to_train: [assistant]"]
            else:
                lines.append("    type: alpaca")
    return "\n".join(lines) + "\n"


def _datasets(names: Sequence[str]) -> str:
    """The header of a data-set card by which `datasets` finds the splits, and does not take several forms of the same
    records for one set: the first form is the default, the other is loaded by its name. It reads all with one loader,
    so Parquet is named only where it stands alone."""
    forms = [("alpaca", "jsonl"), ("chat", "chat.jsonl")]
    if not any(name.endswith(".jsonl") for name in names):
        forms = [("parquet", "parquet")]
    configs: list[str] = []
    for config, ending in forms:
        splits = [split for split in ("train", "validation", "test") if f"{split}.{ending}" in names]
        if splits:
            configs += [f"- config_name: {config}", *([] if configs else ["  default: true"]), "  data_files:"]
        for split in splits:
            configs += [f"  - split: {split}", f"    path: {split}.{ending}"]
    header = ["---", "configs:", *configs, "---"] if configs else []
    return "\n".join([*header, "", "RAFT records; card.md describes them."]).lstrip() + "\n"
