"""Stage `adapt`: the retriever fitted to the domain on training questions, as far as validation questions say it helps.

It stands between questions and records, since records must be made by the retriever that will serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.adapt import build

if TYPE_CHECKING:
    from pydantic import BaseModel


class AdaptConfig(Section):
    """What is fitted, and how. What validation questions do not show to help is dropped again."""

    embedder: bool = setting(False, "Fine-tune the embedder; everything is then embedded anew")
    reranker: bool = setting(False, "Fine-tune the cross-encoder of retrieval.rerank")
    epochs: int = setting(3, "Passes over the questions at most; the validation side stops earlier", ge=1, le=50)
    batch: int = setting(
        32, "Questions in a batch of the embedder; each is told from the others' passages", ge=2, le=512
    )
    rate: float = setting(2e-5, "Peak learning rate", gt=0, le=0.01)
    negatives: int = setting(
        4, "Passages that look right and are not, a question; the embedder reads the first", ge=1, le=20
    )
    reranker_questions: int = setting(
        600, "Training questions of the cross-encoder at most, drawn by seed; each costs 1 + negatives pairs", ge=1
    )
    least_questions: int = setting(200, "Training questions below which nothing is fine-tuned", ge=1)
    judged: int = setting(200, "Validation questions at most that decide what is kept, drawn by seed", ge=1)
    max_likeness: float = setting(
        0.95, "Cosine from which a training question repeats a held-out one and is left out", ge=0.5, le=1
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", result=False)


def wanted(section: Any, shared: Mapping[str, BaseModel]) -> bool:
    """Whether the configuration leaves anything to be fitted or measured."""
    retrieval: Any = shared["retrieval"]
    fitted = section.embedder or section.reranker
    return fitted or retrieval.rerank == "auto" or (retrieval.weights == "measured" and retrieval.mode == "hybrid")


STAGE = Stage(
    "adapt",
    AdaptConfig,
    build,
    help="Fit embedder, reranker and weights to the domain, and keep what helps.",
    models=("embedder",),
    models_if_set=("reranker",),
    shared=("retrieval", "splits"),
    seeded=True,
    packages=("accelerate",),  # the trainers use it without our importing it
    cache="embed",  # the vectors of what it embeds with the fitted model are then at hand
    wanted=wanted,
    describing=("cost.json",),
)
