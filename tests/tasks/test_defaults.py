"""A setting has one default, whether it comes through raft.yaml or a library is called from Python."""

import dataclasses
import inspect

import pytest

from data.chunking.chunks import ChunkOptions
from data.loading.options import LoadOptions
from data.questions.options import QuestionOptions
from data.records.compose import RecordOptions
from data.records.split_sides import SplitOptions
from retrieval.mining import MiningOptions
from retrieval.search import Retriever
from tasks.config import RunConfig

ELSEWHERE = {
    "overhead_tokens": "null in raft.yaml: measured on the base's tokenizer, of which the library knows nothing",
    "style": "auto in raft.yaml: the run knows how large its teacher is",
}


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("ingest", LoadOptions),
        ("chunk", ChunkOptions),
        ("questions", QuestionOptions),
        ("records", RecordOptions),
        ("records", SplitOptions),
        ("records", MiningOptions),
    ],
)
def test_a_library_and_its_section_agree(section, options):
    chosen, plain = getattr(RunConfig(), section).model_dump(), {}
    for field in dataclasses.fields(options):
        if field.default is not dataclasses.MISSING:
            plain[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            plain[field.name] = field.default_factory()
    both = (plain.keys() & chosen.keys()) - ELSEWHERE.keys()
    assert both
    assert {name: plain[name] for name in both} == {name: chosen[name] for name in both}


def test_words_and_vectors_are_searched_where_nobody_says_otherwise():
    assert RunConfig().retrieval.mode == "hybrid"
    assert inspect.signature(Retriever).parameters["mode"].default == "hybrid"
    assert RunConfig(retrieval={"mode": "dense"}).retrieval.mode == "dense"
