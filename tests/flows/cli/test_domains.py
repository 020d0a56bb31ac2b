"""Several domains from one file: what they share is written once, one that fails stops no other, one report."""

import contextlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kept_json import checked

from flows.cli.app import invoke
from flows.domains import merge, read_domains
from raft_errors import BadInput
from tasks.config import load_config
from tasks.store.store import Store


def write(folder: Path, values: dict) -> Path:
    path = folder / "domains.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_domain_is_what_is_common_with_its_own_values_on_top(tmp_path):
    file = write(
        tmp_path,
        {
            "common": {"models": {"base": "owner/base"}, "train": {"rank": 8, "epochs": 2}},
            "domains": {"law": {"corpus": ["law"]}, "health": {"corpus": ["health"], "train": {"epochs": 5}}},
        },
    )
    configs = read_domains(file, [])
    law, health = configs["law"], configs["health"]
    assert list(configs) == ["law", "health"]
    assert (law.name, law.models.base, law.train.rank, law.train.epochs) == ("law", "owner/base", 8, 2)
    assert (health.train.rank, health.train.epochs) == (8, 5)
    assert law.corpus == (str(tmp_path / "law"),)
    assert law.store == health.store
    assert list(read_domains(file, ["health"])) == ["health"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"domains": {}}, "there is no domain"),
        ({"domain": {"law": {}}}, "unknown key domain"),
        ({"domains": {"law": {"train": {"rnak": 3}}}}, "did you mean train.rank"),
        ({"domains": {"Law and order": {}}}, "name is 'Law and order'"),
        ({"domains": {7: {}, "7": {}}}, "two domains of the name '7'"),
        ({"domains": {"law": "law/raft.yaml"}}, "domain law is a str"),
        ({"domains": {"law": ["./docs"]}}, "domain law is a list"),
        ({"common": "raft.yaml", "domains": {"law": {}}}, "common is a str"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, values, words):
    with pytest.raises(BadInput, match=words):
        read_domains(write(tmp_path, values), [])


def test_an_unknown_domain_is_said(tmp_path):
    with pytest.raises(BadInput, match="no domain 'finance'"):
        read_domains(write(tmp_path, {"domains": {"law": {}}}), ["finance"])


def test_values_of_the_own_section_win_and_the_rest_stays():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


FAKE = """#!{python}
import json, pathlib, sys
verb, config = sys.argv[4], pathlib.Path(sys.argv[5])
assert sys.argv[1:4] == ["-P", "-m", "flows.cli"] and sys.argv[6:] == ["--no-prefect", "--json"]
print(verb, config.stem, file=sys.stderr)
if config.stem == "nowhere":
    print(json.dumps({{"ok": False, "error": "no/such/folder: no such file or folder"}}))
    sys.exit(2)
print("a line of a library")
print(json.dumps({{"ok": True, "ran": [], "stages": [{{"stage": "evaluate", "key": "{key}"}}]}}))
"""


def test_domains_run_side_by_side_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
    store = Store(tmp_path / ".raft")
    store.prepare()
    key = "e" * 32
    with store.publish("evaluate", key) as (out, manifest):
        (out / "report.html").write_text("the report")
        figures = {"base": 0.2, "other": 0.6, "difference": 0.4, "low": 0.3, "high": 0.5, "n": 40, "verdict": "better"}
        manifest.metrics = {"headline": figures, "verdict": "hold"}
    fake = tmp_path / "raft"
    fake.write_text(FAKE.format(python=sys.executable, key=key))
    fake.chmod(0o755)
    monkeypatch.setattr("flows.cli.verbs.domains.sys", SimpleNamespace(executable=str(fake)))
    names = ("towns", "nowhere", "again")
    file = write(tmp_path, {"domains": {name: {"corpus": [name]} for name in names}})
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = invoke(["domains", str(file), "--retrain", "--json"])
    row = checked(["domains"], json.loads(out.getvalue()))
    assert (code, row["ok"], row["exit_code"]) == (2, False, 2)
    ends = {d["name"]: (d["exit_code"], d["result"]) for d in row["domains"]}
    assert list(ends) == list(names)
    assert ends["towns"] == ends["again"] == (0, "nothing had to run")
    assert ends["nowhere"] == (2, "no/such/folder: no such file or folder")
    assert all(f"{name}: retrain {name}" in err.getvalue() for name in names)
    assert load_config(store.root / "domains" / "towns.yaml").corpus == (str(tmp_path / "towns"),)
    page = Path(row["report"]).read_text()
    assert all(f">{name}<" in page for name in names)
    assert "<td>+40.0 [+30.0, +50.0]" in page
    assert '<td class="bad">hold</td>' in page, "higher answers alone are no better adapter"
    assert row["domains"][0]["verdict"] == "hold"
    assert Path(row["domains"][0]["report"]).read_text() == "the report"


def built(project, stage: str) -> set[str]:
    """The keys of a stage in the project's store."""
    return {path.parent.name for path in (project.folder / ".raft" / "store" / stage).glob("*/manifest.json")}


@pytest.mark.slow
def test_two_domains_share_what_they_have_in_common_and_each_gets_its_adapter(warm):
    values = {
        "common": warm.values,
        "domains": {"short": {"train": {"max_steps": 2, "warmup_ratio": 0.5}}, "whole": {}},
    }
    (warm.folder / "domains.yaml").write_text(yaml.safe_dump(values))
    before = {stage: built(warm, stage) for stage in ("records", "train")}
    done = warm.process("domains", "domains.yaml", "--jobs", "2", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    by_name = {d["name"]: d for d in row["domains"]}
    assert by_name["whole"]["result"] == "nothing had to run"
    assert by_name["short"]["result"] == "done"
    reports = [Path(d["report"]).read_text() for d in row["domains"]]
    assert all("<html" in page for page in reports)
    assert reports[0] != reports[1]
    assert built(warm, "records") == before["records"]
    assert len(built(warm, "train") - before["train"]) == 1
