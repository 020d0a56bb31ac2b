"""The pipeline's lines, read without running them: what they say is what Prefect draws, `plan` tells and runs do."""

import subprocess
import sys

import pytest
import small_chain

from flows.calls import CALLS, NAMES, calls_of, calls_to
from flows.pipeline import pipeline, prepare
from raft_errors import BadInput
from tasks.chunk import STAGE as CHUNK
from tasks.embed import STAGE as EMBED
from tasks.ingest import STAGE as INGEST


def test_the_lines_say_which_stage_reads_the_results_of_which():
    assert NAMES == small_chain.STAGES
    said = {call.name: tuple(call.inputs.values()) for call in CALLS}
    assert said == {"ingest": ("corpus",), **small_chain.INPUTS}
    assert all(call.name == call.stage.name for call in CALLS)


def test_a_call_gives_each_parameter_what_the_line_says():
    (export,) = (call for call in CALLS if call.name == "export")
    assert dict(export.inputs) == {"train": "train", "records": "records", "index": "index", "chunk": "chunk"}


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


def test_a_part_of_the_pipeline_is_a_flow_too():
    def searching(make, corpus):
        prepare(make, make(INGEST, corpus))

    assert calls_of(searching) == calls_to("records")


def test_a_stage_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(BadInput, match=r"no stage 'trian'.*ingest, chunk, .*evaluate"):
        calls_to("trian")


def test_importing_the_pipeline_imports_no_prefect():
    program = (
        "import flows.pipeline, flows.calls, flows.walk, flows.plan, flows.build, sys; print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert calls_of(pipeline) == CALLS
