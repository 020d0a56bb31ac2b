"""Fine-tunes an embedder or a cross-encoder with the trainers of sentence-transformers.

Both write a checkpoint an epoch and go on from the last one; the epoch that ranks validation passages best is kept, and
training stops at the first one that does not improve. On one machine the same examples and seed give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.nouns import Progress
from raft_errors import BadInput
from retrieval.adaptation.examples import Example
from retrieval.embedding.model_folder import inspect_model
from retrieval.embedding.sentence_model import resolve_device
from retrieval.rerank import inspect_reranker

DONE = "trained.json"


@dataclass(frozen=True)
class TrainingOptions:
    """Attributes:
    epochs: at most; rows: questions in a batch; rate: peak learning rate.
    """

    epochs: int
    rows: int
    rate: float
    seed: int


@dataclass(frozen=True)
class Pool:
    """A validation question with the passages that are ranked for it; the first one is right."""

    question: str
    passages: tuple[str, ...]


def adapt_embedder(
    folder: Path,
    examples: Sequence[Example],
    pools: Sequence[Pool],
    out: Path,
    scratch: Path,
    options: TrainingOptions,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the fine-tuned model to `out`; returns the validation figure before training and after each epoch.

    The loss ranks each question's passage above its hard negative and above the passages of all other questions of the
    batch (multiple negatives ranking, Henderson et al., 2017).

    Raises:
        BadInput: the model has no weights that can be trained.
    """
    if (figures := _finished(out)) is not None:
        return figures
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import (
        BatchSamplers,
        SentenceTransformerTrainingArguments,
    )

    inspect_model(folder)
    with _quiet():
        model = SentenceTransformer(str(folder), device=resolve_device(device), local_files_only=True)
        _require_trainable(model, folder)
        corpus: dict[str, Any] = {text: text for pool in pools for text in pool.passages}
        queries: dict[str, Any] = {str(number): pool.question for number, pool in enumerate(pools)}
        relevant = {str(number): {pool.passages[0]} for number, pool in enumerate(pools)}
        evaluator = InformationRetrievalEvaluator(
            queries, corpus, relevant, name="validation", mrr_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[1],
            ndcg_at_k=[10], map_at_k=[10], write_csv=False,
        )  # fmt: skip
        with_negative = [example for example in examples if example.negatives]
        rows = with_negative if len(with_negative) >= len(examples) / 2 else list(examples)
        columns = {"anchor": [e.question for e in rows], "positive": [e.positive for e in rows]}
        if rows is with_negative:
            columns["negative"] = [e.negatives[0] for e in rows]
        arguments = SentenceTransformerTrainingArguments(
            **_arguments(scratch, options, "eval_validation_cosine_mrr@10", device),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            prompts=_prompts(model, columns),
        )
        before = float(evaluator(model)["validation_cosine_mrr@10"])
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            evaluator=evaluator,
            loss=MultipleNegativesRankingLoss(model),
            callbacks=_callbacks(progress, "adapt embedder"),
        )
        return _train(trainer, out, scratch, before, "eval_validation_cosine_mrr@10")


def adapt_reranker(
    folder: Path,
    examples: Sequence[Example],
    pools: Sequence[Pool],
    out: Path,
    scratch: Path,
    options: TrainingOptions,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The same for a cross-encoder, which learns to tell right pairs from wrong ones (binary cross-entropy)."""
    if (figures := _finished(out)) is not None:
        return figures
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    limit = inspect_reranker(folder).max_tokens
    with _quiet():
        model = CrossEncoder(
            str(folder), device=resolve_device(device), max_length=limit, local_files_only=True, num_labels=1
        )
        _require_trainable(model.model, folder)
        samples: list[Any] = [
            {"query": p.question, "positive": [p.passages[0]], "documents": list(p.passages)}
            for p in pools
            if len(p.passages) > 1
        ]
        evaluator = CrossEncoderRerankingEvaluator(samples, at_k=10, name="validation", write_csv=False)
        pairs = [(e.question, e.positive, 1.0) for e in examples]
        pairs += [(e.question, wrong, 0.0) for e in examples for wrong in e.negatives]
        columns = {name: [pair[at] for pair in pairs] for at, name in enumerate(("query", "passage", "label"))}
        before = float(evaluator(model)["validation_mrr@10"])
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**_arguments(scratch, options, "eval_validation_mrr@10", device)),
            train_dataset=Dataset.from_dict(columns),
            evaluator=evaluator,
            loss=BinaryCrossEntropyLoss(model),
            callbacks=_callbacks(progress, "adapt reranker"),
        )
        return _train(trainer, out, scratch, before, "eval_validation_mrr@10")


def _finished(out: Path) -> dict[str, Any] | None:
    """The figures of a training that an earlier attempt brought to its end."""
    return json.loads((out / DONE).read_text(encoding="utf-8")) if (out / DONE).is_file() else None


def _arguments(scratch: Path, options: TrainingOptions, best: str, device: str) -> dict[str, Any]:
    on_cpu = not resolve_device(device).startswith("cuda")
    return {
        "output_dir": str(scratch),
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.rows,
        "learning_rate": options.rate,
        "warmup_steps": 0.1,  # a share of all steps
        "seed": options.seed,
        "data_seed": options.seed,
        "use_cpu": on_cpu,
        "bf16": not on_cpu,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": best,
        "greater_is_better": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def _train(trainer: Any, out: Path, scratch: Path, before: float, figure: str) -> dict[str, Any]:
    from transformers.trainer_callback import PrinterCallback

    last = max(scratch.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), default=None)
    for callback in (PrinterCallback, trainer.model_card_callback_class):
        trainer.remove_callback(callback)  # they print, and write cards that nobody reads
    trainer.train(resume_from_checkpoint=str(last) if last is not None and _whole(last) else None)
    epochs = [round(float(row[figure]), 4) for row in trainer.state.log_history if figure in row]
    trainer.model.save_pretrained(str(out), safe_serialization=True, create_model_card=False)
    figures = {"before": round(before, 4), "epochs": epochs, "steps": int(trainer.state.global_step)}
    (out / DONE).write_text(json.dumps(figures), encoding="utf-8")
    for checkpoint in scratch.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    return figures


def _whole(checkpoint: Path) -> bool:
    """The trainer's state is written last; without it a kill came in between."""
    return (checkpoint / "trainer_state.json").is_file()


def _require_trainable(module: Any, folder: Path) -> None:
    if not any(p.requires_grad and p.is_floating_point() for p in module.parameters()):
        raise BadInput(
            f"{folder} holds no weights that can be trained",
            expected="a transformer in floating point",
            do="switch its adaptation off (adapt.embedder, adapt.reranker), or choose another model",
        )


def _prompts(model: Any, columns: dict[str, list[str]]) -> dict[str, str] | None:
    """The model's own prompts before questions and passages, as in use."""
    prompts = model.prompts or {}
    query, passage = prompts.get("query") or "", prompts.get("passage") or prompts.get("document") or ""
    chosen = {name: query if name == "anchor" else passage for name in columns}
    return chosen if query or passage else None


def _callbacks(progress: Progress | None, what: str) -> list[Any]:
    from transformers import EarlyStoppingCallback, TrainerCallback

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, state.max_steps, what)

    return [Report(), EarlyStoppingCallback(early_stopping_patience=1)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and tables that the libraries print."""
    import datasets
    from transformers.utils import logging as hf_logging

    bars, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        datasets.enable_progress_bars()
