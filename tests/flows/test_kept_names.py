"""Names that people have written down keep working: fields, verbs, options, Python names and JSON keys.

`tests/fixtures/kept_names.json` grows with each release and loses a name only as docs/compatibility.md says.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer.main

from flows.cli.app import command
from tasks.config import RunConfig, fields

KEPT = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "kept_names.json").read_text())


def test_every_field_of_a_configuration_is_still_there():
    now = {".".join(path) for path, _ in fields(RunConfig)}
    assert sorted(set(KEPT["fields"]) - now) == []


def test_every_verb_and_option_is_still_there():
    verbs = typer.main.get_command(command()).commands
    now = {name: {option for field in verb.params for option in field.opts} for name, verb in verbs.items()}
    assert sorted(KEPT["verbs"].keys() - now.keys()) == []
    assert {name: lost for name, options in KEPT["verbs"].items() if (lost := set(options) - now[name])} == {}


@pytest.mark.parametrize("face", KEPT["python"])
def test_every_python_name_is_still_offered(face):
    assert sorted(set(KEPT["python"][face]) - set(importlib.import_module(face).__all__)) == []


def keys(value: object) -> set[str]:
    """The keys of an object and of the objects in its lists, as `stages.key`."""
    rows = value if isinstance(value, list) else [value]
    names: set[str] = set()
    for row in rows:
        if isinstance(row, Mapping):
            for name, inner in row.items():
                names |= {str(name)}
                if isinstance(inner, list):
                    names |= {f"{name}.{key}" for key in keys(inner)}
    return names


@pytest.mark.slow
@pytest.mark.parametrize("words", KEPT["json"])
def test_every_json_key_is_still_printed(finished, words):
    project, _ = finished
    assert sorted(set(KEPT["json"][words]) - keys(project.json(*words.split("|")))) == []
