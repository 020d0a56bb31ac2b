"""Several domains from one file: what they share is written once, one that fails stops no other, one report."""

import json
from pathlib import Path

import pytest
import yaml

from flows.domains import merge, read_domains
from raft_errors import BadInput


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
    made = read_domains(file, [])
    law, health = made["law"], made["health"]
    assert list(made) == ["law", "health"]
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


@pytest.mark.slow
def test_domains_run_side_by_side_and_one_that_fails_stops_no_other(finished, tmp_path):
    project, _ = finished
    values = {name: value for name, value in project.values.items() if name != "corpus"}
    file = write(
        project.folder,
        {
            "common": {**values, "store": str(project.folder / ".raft")},
            "domains": {
                "towns": {"corpus": project.values["corpus"]},
                "nowhere": {"corpus": ["no/such/folder"]},
                "again": {"corpus": project.values["corpus"]},
            },
        },
    )
    said = project.raft("domains", str(file), "--json", check=False)
    row = json.loads(said.stdout.splitlines()[-1])
    assert (said.returncode, row["ok"]) == (2, False)
    ends = {d["name"]: (d["exit_code"], d["result"]) for d in row["domains"]}
    assert ends["towns"] == ends["again"] == (0, "nothing had to run")
    assert ends["nowhere"][0] == 2
    assert "no/such/folder" in ends["nowhere"][1]
    assert "no/such/folder" in said.stderr
    page = Path(row["report"]).read_text()
    assert all(f">{name}<" in page for name in ends)
    assert Path(row["domains"][0]["report"]).is_file()
