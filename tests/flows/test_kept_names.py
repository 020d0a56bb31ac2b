"""Names that people have written down keep working: fields, verbs, options, Python names and JSON keys.

`tests/fixtures/kept_names.json` grows with each release and loses a name only as docs/compatibility.md says.
"""

import importlib
import json
from pathlib import Path

import pytest
import typer.main
from kept_json import checked, form_of, lost

from flows.cli.app import command, invoke
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


def test_every_verb_that_prints_json_has_its_keys_here():
    """`checked` compares them wherever a test reads a reply."""
    verbs = typer.main.get_command(command()).commands
    forms = {form.split(" --")[0] for form in KEPT["json"]}
    assert sorted(name for name, verb in verbs.items() if _prints_json(verb) and name not in forms) == []


def _prints_json(verb) -> bool:
    return any("--json" in field.opts for field in verb.params)


@pytest.mark.slow
def test_models_that_are_there_say_where(finished):
    assert finished[0].json("models")["models"]


def test_a_key_that_is_gone_is_named():
    reply = {"ok": True, "query": "Elm", "stale": False, "hits": []}
    assert lost(["search", "Elm"], reply) == []
    assert lost(["search", "Elm"], {"ok": True, "hits": [{"rank": 1}]})[:3] == [
        "hits.chunk_id",
        "hits.end",
        "hits.heading_path",
    ]
    with pytest.raises(AssertionError, match="query"):
        checked(["search", "Elm"], {"ok": True, "hits": []})
    assert checked(["search", "Elm"], {"ok": False, "error": "no index"})


def test_forms_of_a_verb_are_told_apart():
    assert form_of(["records", "--show", "2"]) == "records --show"
    assert form_of(["plan", "--devices", "2"]) == "plan --engine"
    assert form_of(["evaluate", "retrieval"]) == "evaluate retrieval"
    assert form_of(["evaluate", "my.yaml"]) == "evaluate"


def test_the_schema_keeps_its_parts(capsys):
    assert invoke(["schema", "--json"]) == 0
    checked(["schema"], json.loads(capsys.readouterr().out))
