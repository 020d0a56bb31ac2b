"""The pipeline: which stage reads the results of which. These lines are the only place that says so.

`make(stage, *inputs)` stands for a stage's result, and whoever reads the lines decides what it does: build, with or
without Prefect (`flows.build`), look for what is finished (`flows.walk`), tell what a run would take (`flows.plan`), or
note who reads what (`flows.calls`). A night (`flows.retraining.night`) is another flow, made of the same parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tasks.adapt import STAGE as adapt
from tasks.calibrate import STAGE as calibrate
from tasks.chunk import STAGE as chunk
from tasks.embed import STAGE as embed
from tasks.evaluate import STAGE as evaluate
from tasks.export import STAGE as export
from tasks.index import STAGE as index
from tasks.ingest import STAGE as ingest
from tasks.inputs.corpus import Corpus
from tasks.questions import STAGE as questions
from tasks.records import STAGE as records
from tasks.train import STAGE as train

ONLY_ADAPTED = ("adapt", "embed_adapted", "index_adapted")
"""Calls that a run makes only where its configuration fits the retriever to the domain."""
OPTIONAL = (*ONLY_ADAPTED, "calibrate")
"""Calls that a run makes only where its configuration asks for them."""


class Make(Protocol):
    """Gives the result of a stage whose inputs are given in the order of its parameters, or None for a stage that the
    configuration does not ask for (`Stage.wanted`).

    A stage that stands in a flow a second time has a `name` there; by default a call is named after its stage.
    """

    def __call__(self, stage: Any, /, *inputs: Any, name: str = "", **optional: Any) -> Any: ...


def pipeline(make: Make, corpus: Corpus) -> None:
    """From documents to an adapter and the report about it."""
    prepared = prepare(make, read(make, corpus))
    adapter = make(train, prepared.records)
    assess(make, prepared, adapter)


def read(make: Make, corpus: Corpus) -> Any:
    """The first part: the documents of a corpus."""
    return make(ingest, corpus)


@dataclass(frozen=True)
class Prepared:
    """What a training starts from, and what answers are searched in."""

    chunks: Any
    index: Any
    records: Any
    adapt: Any = None


def prepare(make: Make, documents: Any) -> Prepared:
    """The second part: from documents to an index and to records."""
    chunks = make(chunk, documents)
    vectors = make(embed, chunks)
    search = make(index, vectors, chunks)
    asked = make(questions, documents, chunks, search)
    fitted = make(adapt, asked, chunks, search)
    if fitted is not None:  # the configuration asks for a retriever that is fitted to the domain
        vectors = make(embed, chunks, adapt=fitted, name="embed_adapted")
        search = make(index, vectors, chunks, name="index_adapted")
    return Prepared(chunks, search, make(records, asked, chunks, search, adapt=fitted), fitted)


def assess(make: Make, prepared: Prepared, adapter: Any) -> tuple[Any, Any]:
    """The last part: the exported adapter, and its evaluation on documents that were not trained on."""
    fitted, search = prepared.adapt, (prepared.records, prepared.index, prepared.chunks)
    limit = make(calibrate, adapter, *search, adapt=fitted)  # None where nothing is promised of citations
    exported = make(export, adapter, *search, adapt=fitted, calibrate=limit)
    report = make(evaluate, exported, adapter, *search, adapt=fitted)
    return exported, report
