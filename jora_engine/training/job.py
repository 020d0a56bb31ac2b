"""`python -m jora_engine.training.job JOB.json`: one training run as a process that can be killed at any moment.

Reads records and a model folder, writes a PEFT adapter, metrics and a loss curve; says how far it is as JSON
lines on standard output. SIGTERM and SIGINT save a checkpoint and end with code 75; run again, it goes on from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from jora_engine.adapters.peft_folder import PRECISION, read_adapter, write_adapter
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.prompt_check import check_prompt
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import load_params, packed_leaves, read_model_config
from jora_engine.model.lora import Adapter, parameter_count
from jora_engine.model.parameters import parameter_total
from jora_engine.model.sharding import place, use_cores
from jora_engine.training.checkpoint import Checkpoints
from jora_engine.training.distil import distil, distiller
from jora_engine.training.identity import distillation_identity, training_identity
from jora_engine.training.loop import Trainer
from jora_engine.training.machine import describe, keep_programs
from jora_engine.training.plan import Plan, abstract_params, choose, device_memory, held_as_bits, refusal, rungs
from jora_engine.training.records import check_lengths, check_vocabulary, read_examples
from jora_engine.training.results import other_machines, summary, write_results
from jora_engine.training.trackers import Trackers
from raft_errors import BadInput, RaftError

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A run's inputs and outputs.

    Attributes:
        model: Hugging Face folder of the base.
        train, validation: JSON Lines of chats (`messages`) or Alpaca triples, see `training.records`.
        out: folder for adapter/, metrics.jsonl, loss.png and training.json; the same inputs give the same bytes.
        work: folder for checkpoints, kept between attempts and removed by the caller afterwards.
        base_name: what the adapter names as its base; the model folder's name by default.
        base_digest: identity of the base's files; by default the trainer reads them all to compute one.
        compile_cache: folder for compiled programs, shared between runs.
        writers: metric writers besides metrics.jsonl (`trackers`), their files in `logs`, the run's name `run_name`.
        chat: what the base's chat template is told, the keywords of `Tokenizer.load` (`variables`, `prefill`).
        start: PEFT folder of the adapter that training goes on from; None = a fresh one.
    """

    model: Path
    train: Path
    out: Path
    work: Path
    validation: Path | None = None
    base_name: str = ""
    base_digest: str = ""
    compile_cache: Path | None = None
    chat: Mapping[str, Any] = field(default_factory=dict)
    start: Path | None = None
    writers: tuple[str, ...] = ()
    logs: Path | None = None
    run_name: str = "train"
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in ("model", "train", "out", "work", "validation", "logs", "compile_cache", "start"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))

    @classmethod
    def read(cls, file: Path) -> Job:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        values["lora"] = LoraConfig.from_dict(values.get("lora", {}))
        values["training"] = TrainConfig.from_dict(values.get("training", {}))
        return cls(**values)


def read_start(folder: Path, wanted: LoraConfig, model: ModelConfig) -> Adapter:
    """The adapter to go on from; it may have been trained on the base in another precision.

    Raises:
        BadInput: it has another rank, other modules or another scale than the one to be trained.
    """
    lora, own = read_adapter(folder, model)
    count = model.num_layers
    same = own.targets(model) == wanted.targets(model) and own.layers(count) == wanted.layers(count)
    if not (same and own.rank == wanted.rank and math.isclose(own.scale, wanted.scale, rel_tol=1e-6)):
        raise BadInput(
            f"{folder}: rank {own.rank}, scale {own.scale:g}, modules {', '.join(lora)}",
            expected=f"rank {wanted.rank}, scale {wanted.scale:g} and the modules of this configuration",
            do="start from the base model, or keep train.rank, alpha, target_modules and use_rslora as they were",
        )
    return lora


def run(job: Job, *, stop: Any, report: Any) -> None:
    """Trains and writes the results of a job. `stop` and `report` as in `Trainer.run`."""
    keep_programs(job.compile_cache)
    use_cores(job.training.micro_batch_rows)
    model = read_model_config(job.model)
    job = dataclasses.replace(job, training=job.training.for_base(parameter_total(model)))
    tokenizer = Tokenizer.load(job.model, **job.chat)
    for sentence in check_prompt(tokenizer, job.base_name or job.model.name):
        report({"event": "warning", "what": sentence})
    examples = read_examples(job.train, tokenizer)
    validation = read_examples(job.validation, tokenizer) if job.validation else []
    if not examples:
        raise BadInput(f"{job.train} holds no record", expected="training records", do="make more questions")
    if job.training.distil_steps and not validation:
        raise BadInput(
            "train.distil_steps is set and there are no validation records",
            expected="some: a distilled adapter is kept only where their loss is lower",
            do="raise records.validation, or set train.distil_steps to 0",
        )
    check_vocabulary(examples, model, tokenizer, job.train)
    check_vocabulary(validation, model, tokenizer, job.validation or job.train)
    check_lengths([*examples, *validation], model, job.training.sequence_length, job.train)
    placement = place(model, job.training.mesh)
    start = read_start(job.start, job.lora, model) if job.start else None
    precision = job.training.base_precision
    packed = packed_leaves(job.model, model, precision)
    shapes = abstract_params(model, job.training.dtype, placement, packed)
    wanted = job.training

    def make(training: TrainConfig) -> Trainer:
        return Trainer(shapes, model, job.lora, training, examples, validation, placement, start)

    trainer, outlook = _fitting_trainer(make, wanted, job.work / "remat")
    second = None
    if wanted.distil_steps:  # planned now: what cannot be done is refused before hours of training
        whole = abstract_params(model, wanted.dtype, placement)
        second, _ = _fitting_trainer(
            lambda training: distiller(make(training), whole["layers"]),
            wanted,
            job.work / "distil-remat",
            "set train.distil_steps to 0 (the base in full stands beside the packed one)",
        )
    identity = training_identity(
        examples=examples,
        validation=validation,
        base=job.model,
        base_digest=job.base_digest,
        start=job.start,
        lora=job.lora,
        training=job.training,
    )
    job = dataclasses.replace(job, training=trainer.config)
    settings = {"lora": dataclasses.asdict(job.lora), "training": dataclasses.asdict(job.training)}
    trackers = Trackers(job.writers, job.logs or job.work, job.run_name, {"model": job.base_name, **settings})

    def tell(event: dict[str, Any]) -> None:
        report(event)
        trackers.hear(event)

    def load(held: str, shapes: Any) -> Any:
        shardings = placement.params(shapes) if placement else None
        return load_params(job.model, model, job.training.dtype, shardings, bits=held_as_bits(), precision=held)

    trainer.params = load(precision, shapes)
    packing = trainer.schedule.packings[0]
    facts: dict[str, Any] = {
        "records": len(examples),
        "records_too_long": len(examples) - len(trainer.examples),
        "validation_records": len(trainer.validation),
        "rows": len(packing.rows),
        "fill": round(packing.fill, 4),
        "steps": len(trainer.schedule.steps),
        "steps_of_all_epochs": trainer.schedule.steps_of_all_epochs,
        "trainable_parameters": parameter_count(job.lora, model),
        "prompt_tokens": int(sum(len(e.prompt) for e in trainer.examples)),
        "completion_tokens": int(sum(len(e.completion) for e in trainer.examples)),
        "fallback_template": tokenizer.fallback_template,
        "attention": trainer.backend.backend,
    }
    choices = {"plan": outlook.to_json(), "attention": trainer.backend._asdict()}
    report({"event": "start", **facts, "devices": [str(d) for d in jax.devices()], **choices})
    machine = {
        **describe(devices=True),
        "attention": trainer.backend.backend,
        "kernels": trainer.backend.kernels,
        "mesh": dict(placement.mesh.shape) if placement else {},
        "remat": job.training.remat,
    }

    def states(folder: str, identity: dict[str, Any], remat: str) -> Checkpoints:
        return Checkpoints(
            job.work / folder,
            keep=job.training.keep_checkpoints,
            job=identity,
            machine={**machine, "remat": remat},
            tell=lambda words: report({"event": "warning", "what": words}),
        )

    checkpoints = states("checkpoints", identity, trainer.config.remat)
    try:
        lora, progress = trainer.run(checkpoints, stop=stop, report=tell, checkpoint_seconds=CHECKPOINT_SECONDS)
    finally:
        checkpoints.close()
        trackers.close()
    if second:
        identity = distillation_identity(identity, wanted.distil_steps, lora)
        with contextlib.closing(states("distil-checkpoints", identity, second.config.remat)) as kept:
            hooks = {"stop": stop, "report": report, "checkpoint_seconds": CHECKPOINT_SECONDS}
            lora, figures = distil(second, trainer, load("bfloat16", whole)["layers"], lora, kept, **hooks)
        facts |= figures
    job.out.mkdir(parents=True, exist_ok=True)
    contract = {} if precision == "bfloat16" else {PRECISION: precision}
    write_adapter(job.out / "adapter", lora, job.lora, model, job.base_name or job.model.name, contract)
    facts |= {"steps_taken": progress.step, "records_seen": trainer.schedule.examples_seen(progress.step)}
    facts |= {"machine": machine, **other_machines(checkpoints.machines)}
    write_results(job.out, job.lora, job.training, progress, facts)
    report({"event": "done", "step": progress.step, **summary(progress)})


def _fitting_trainer(
    make: Callable[[TrainConfig], Trainer], wanted: TrainConfig, note: Path, advice: str = ""
) -> tuple[Trainer, Plan]:
    """The trainer of the first rung of remat that fits, and its plan.

    Args:
        note: file that keeps the rung. Another one rounds otherwise: what is gone on with keeps its own, however much
            memory is free by now.
        advice: what else to do where none fits.
    """
    before = note.read_text(encoding="utf-8", errors="replace") if note.exists() else ""
    ladder = rungs(wanted, cpu=jax.default_backend() == "cpu")
    trainer, tried = choose(make, sorted(ladder, key=lambda setting: setting.remat != before), device_memory())
    if not tried[-1].fits:
        raise refusal(tried[-1], advice)
    note.write_text(trainer.config.remat, encoding="utf-8")
    return trainer, tried[-1]


def fine_tune(
    job: Job, *, stop: Callable[[], bool] = lambda: False, report: Callable[[dict[str, Any]], None] = lambda event: None
) -> None:
    """Trains and writes the results of a job; called again after an interruption, it goes on where it was.

    Args:
        stop: asked before every micro batch; True saves the last finished step and raises `Interrupted`.
        report: is given an event (`step` with its loss, `done` …) as a dict of JSON values.
    """
    job.work.mkdir(parents=True, exist_ok=True)
    with (job.work / ".lock").open("w") as lock:  # two trainers never share a work folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(job, stop=stop, report=report)


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


_PARENT_SECONDS = 1.0  # between two looks at who the parent is, where the kernel does not tell of its death


def _follow_supervisor() -> None:
    """SIGTERM when the supervising process dies; ends at once where it is dead already.

    Linux sends it; elsewhere a thread looks for another parent.
    """
    supervisor = os.environ.get("RAFT_SUPERVISOR")
    if not supervisor:
        return
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_watch_parent, args=(int(supervisor),), daemon=True).start()
    if os.getppid() != int(supervisor):
        sys.exit(75)


def _watch_parent(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 75 stopped with its state saved, 2 bad input, 1 failed."""
    _follow_supervisor()
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wanted.set())
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m jora_engine.training.job JOB.json\n")
        return 2
    try:
        fine_tune(Job.read(Path(arguments[0])), stop=wanted.is_set, report=_say)
    except RaftError as error:
        _say({"event": "error", "what": error.what, "expected": error.expected, "do": error.do})
        return error.exit_code
    except Exception as error:  # noqa: BLE001  the supervisor needs one line, the log the rest
        traceback.print_exc()
        _say({"event": "error", "what": f"{type(error).__name__}: {error}", "expected": "", "do": ""})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
