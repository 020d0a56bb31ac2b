"""What whoever may start a run can tell it, and what only whoever writes the configuration can."""

import pytest
import yaml

from flows.retraining.run_parameters import PROJECT, SERVED, config_of_run, remember
from raft_errors import BadInput
from tasks.build.section import Section, closed_changes, setting
from tasks.config import RunConfig, fields


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv(PROJECT, raising=False)
    monkeypatch.setenv(SERVED, "")  # so that it is taken back afterwards
    (tmp_path / "raft.yaml").write_text(yaml.safe_dump({"corpus": ["docs"], "retrain": {"smoke_command": "true"}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raft.yaml"


FORBIDDEN = {
    "retrain.smoke_command": "touch /tmp/x",
    "retrain": "{smoke_command: touch /tmp/x}",
    "store": "/tmp/elsewhere",
    "share": "s3://elsewhere/x",
    "corpus": "[/etc]",
    "models.base": "/tmp/model",
    "models.embedder_revision": "refs/pr/1",
    "questions.file": "/etc/passwd",
    "questions.teacher_url": "http://evil.example/v1",
    "questions.teacher_key_variable": "AWS_SECRET_ACCESS_KEY",
    "questions.teacher": "openai",
    "questions.templates": "/tmp/prompts",
    "evaluate.judge": "openai",
    "evaluate.judge_url": "http://evil.example/v1",
    "evaluate.earlier": "[/tmp/adapter]",
    "records.template": "/tmp/template",
    "retrieval.rerank": "/tmp/model",
    "retrieval.rerank_revision": "main",
    "ingest.follow_links": "true",
    "ingest.redact": "[email]",
    "train.writers": "[wandb]",
    "store_access": "group",
    "retrieval.store": "{kind: lancedb, at: /tmp/vectors}",
}


@pytest.mark.parametrize(("name", "value"), FORBIDDEN.items())
def test_a_run_may_set_no_path_address_or_command_and_hears_which_one_it_was(project, name, value):
    remember(project, [])
    with pytest.raises(BadInput, match="may not set") as caught:
        config_of_run(str(project), [f"{name}={value}"])
    assert name in caught.value.what


def test_every_field_that_names_a_path_is_closed_whoever_adds_it():
    """By its type: a text that nobody thought about is closed."""

    class New(Section):
        address: str = setting("", "Forgotten to be marked")
        several: tuple[str, ...] = setting((), "Forgotten to be marked")
        switch: bool = setting(False, "Harmless")
        door: bool = setting(False, "A door", from_outside=False)
        word: str = setting("", "Harmless", from_outside=True)

    changed = New(address="/etc", several=("/etc",), switch=True, door=True, word="x")
    assert closed_changes(New(), changed) == ["address", "several", "door"]
    marked = [path for path, info in fields(RunConfig) if info.json_schema_extra.get("path")]
    assert marked
    assert not [p for p in marked if dict(fields(RunConfig))[p].json_schema_extra.get("from_outside")]


def test_numbers_switches_and_choices_may_be_set(project):
    remember(project, [])
    config = config_of_run(
        str(project), ["train.max_steps=3", "seed=7", "ingest.prune=true", "questions.kinds=[factoid]", "gate={}"]
    )
    assert (config.train.max_steps, config.seed, config.ingest.prune) == (3, 7, True)
    assert config.retrain.smoke_command == "true"


def test_what_the_operator_gave_to_the_schedule_holds_and_no_other_value_does(project):
    own = ["retrain.smoke_command=make test", "store=elsewhere"]
    remember(project, own)
    config = config_of_run(str(project), own)
    assert config.retrain.smoke_command == "make test"
    assert config.store == str(project.parent / "elsewhere")
    assert config_of_run(str(project), []).retrain.smoke_command == "make test", "without being a parameter"
    with pytest.raises(BadInput, match=r"retrain\.smoke_command"):
        config_of_run(str(project), [*own, "retrain.smoke_command=make other"])


def test_a_run_is_about_the_configuration_that_is_served(project, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("retrain: {smoke_command: touch /tmp/x}")
    remember(project, [])
    with pytest.raises(BadInput, match="parameter config names"):
        config_of_run(str(other), [])


def test_a_worker_runs_its_projects_configuration(project, tmp_path, monkeypatch):
    """As `prefect.yaml` sets it up: the folder stands in the worker's environment, or is where its pull step goes."""
    other = tmp_path / "elsewhere" / "raft.yaml"
    other.parent.mkdir()
    other.write_text("")
    assert config_of_run(str(project), ["seed=7"]).seed == 7
    with pytest.raises(BadInput, match="parameter config names"):
        config_of_run(str(other), [])
    monkeypatch.setenv(PROJECT, str(other.parent))
    assert config_of_run(str(other), []).seed == 0
    with pytest.raises(BadInput, match="parameter config names"):
        config_of_run(str(project), [])
