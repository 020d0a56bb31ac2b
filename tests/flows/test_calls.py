"""The pipeline's lines, read without running them: what they say is what Prefect draws, `plan` tells and runs do."""

import dataclasses
import subprocess
import sys

import pytest
import small_chain
import typer

from flows.calls import CALLS, NAMES, Call, calls_of, calls_to
from flows.pipeline import OPTIONAL, assess, pipeline, prepare, read
from flows.retraining.choice import DECIDING
from flows.run import Run
from raft_errors import BadInput, RaftError
from tasks.chunk import STAGE as CHUNK
from tasks.config import RunConfig
from tasks.embed import STAGE as EMBED
from tasks.ingest import STAGE as INGEST
from tasks.train import STAGE as TRAIN


def test_the_lines_say_which_stage_reads_the_results_of_which():
    plain = calls_of(pipeline, adapted=False)
    assert tuple(call.name for call in plain) == small_chain.STAGES
    said = {call.name: tuple(call.inputs.values()) for call in plain}
    assert said == {"ingest": ("corpus",), **small_chain.INPUTS}
    assert all(call.name == call.stage.name for call in plain)


def test_a_fitted_retriever_stands_between_questions_and_records():
    assert [name for name in NAMES if name not in small_chain.STAGES] == [*OPTIONAL]
    said = {call.name: dict(call.inputs) for call in CALLS}
    assert said["adapt"] == {"questions": "questions", "chunk": "chunk", "index": "index"}
    assert said["embed_adapted"] == {"chunk": "chunk", "adapt": "adapt"}
    assert said["index_adapted"] == {"embed": "embed_adapted", "chunk": "chunk"}
    for reader in ("records", "export", "evaluate"):
        assert (said[reader]["index"], said[reader]["adapt"]) == ("index_adapted", "adapt")


def test_a_call_gives_each_parameter_what_the_line_says():
    (export,) = (call for call in CALLS if call.name == "export")
    assert dict(export.inputs) == {
        "train": "train",
        "records": "records",
        "index": "index_adapted",
        "chunk": "chunk",
        "adapt": "adapt",
        "calibrate": "calibrate",
    }


def test_a_stage_may_stand_twice_under_two_names():
    def twice(make, corpus):
        chunks = make(CHUNK, make(INGEST, corpus))
        make(EMBED, chunks)
        make(EMBED, chunks, name="embed_again")

    calls = calls_of(twice)
    assert [call.name for call in calls] == ["ingest", "chunk", "embed", "embed_again"]
    assert [call.stage for call in calls[2:]] == [EMBED, EMBED]

    def unnamed(make, corpus):
        twice(make, corpus)
        make(EMBED, make(CHUNK, make(INGEST, corpus)))

    with pytest.raises(ValueError, match="calls ingest twice: give one of the calls another name="):
        calls_of(unnamed)


@pytest.mark.parametrize("name", ["lower case", "Lower/Again", "2nd", "embed-again"])
def test_a_call_has_a_name_that_can_be_a_verb(name):
    with pytest.raises(ValueError, match="cannot be named"):
        calls_of(lambda make, corpus: make(INGEST, corpus, name=name))


def test_no_call_takes_the_place_of_a_verb(monkeypatch):
    from flows.cli import app
    from flows.cli.verbs import run

    monkeypatch.setattr(run, "CALLS", [*CALLS, Call("plan", EMBED, {"chunk": "chunk"})])
    with pytest.raises(ValueError, match="two verbs are called plan"):
        app._register(typer.Typer())


def test_a_stage_without_a_section_is_told_where_it_goes(tmp_path):
    run = Run.of(RunConfig(store=str(tmp_path)))
    with pytest.raises(RaftError, match=r"stage lowercase.*a field `lowercase: ...` in RunConfig"):
        run.request(dataclasses.replace(CHUNK, name="lowercase"), {})


def test_a_night_reads_the_lines_of_the_pipeline_and_asks_for_training_where_their_settings_change():
    """A stage that is put between the corpus and the training stands in both."""
    sections = {name for call in calls_to("train") for name in (call.stage.name, *call.stage.shared)}
    assert {*DECIDING} == {"models", *sections} - {"splits"}, "the sides are a part of the section records"

    def night(make, corpus):
        prepared = prepare(make, read(make, corpus))
        assess(make, prepared, make(TRAIN, prepared.records))

    assert calls_of(night) == CALLS


def test_a_part_of_the_pipeline_is_a_flow_too():
    def searching(make, corpus):
        prepare(make, read(make, corpus))

    assert calls_of(searching) == calls_to("records")


def test_a_stage_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(BadInput, match=r"no stage 'trian'.*ingest, .*evaluate"):
        calls_to("trian")


@pytest.mark.slow
def test_importing_the_pipeline_imports_no_prefect():
    program = (
        "import flows.pipeline, flows.calls, flows.walk, flows.plan, flows.build, sys; print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert calls_of(pipeline) == CALLS
