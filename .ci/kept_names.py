"""Adds what is new to the names that later releases keep (tests/fixtures/kept_names.json); `--check` only says what is.

    PYTHONPATH=. .venv/bin/python .ci/kept_names.py

`make release` checks, so that no release goes out with a name that the next one could lose unseen.
"""

import importlib
import json
import sys
from pathlib import Path

import typer.main

from flows.cli.app import command
from tasks.config import RunConfig, fields

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "fixtures" / "kept_names.json"


def main(arguments: list[str]) -> int:
    kept = json.loads(LIST.read_text(encoding="utf-8"))
    before = json.dumps(kept)
    kept["fields"] = sorted({*kept["fields"], *(".".join(path) for path, _ in fields(RunConfig))})
    for name, verb in typer.main.get_command(command()).commands.items():  # type: ignore[attr-defined]
        options = {option for field in verb.params for option in field.opts if option.startswith("-")}
        kept["verbs"][name] = sorted({*kept["verbs"].get(name, ()), *options})
    stubs = [path for top in ("data", "retrieval", "jora_engine") for path in (ROOT / top).rglob("__init__.pyi")]
    for stub in sorted(stubs):
        face = ".".join(stub.parent.relative_to(ROOT).parts)
        kept["python"][face] = sorted({*kept["python"].get(face, ()), *importlib.import_module(face).__all__})
    if json.dumps(kept) == before:
        return 0
    if "--check" in arguments:
        sys.stderr.write(f"{LIST} lacks names that are new: run .ci/kept_names.py and look at what it adds\n")
        return 1
    LIST.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
