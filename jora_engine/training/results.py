"""What a training leaves beside its adapter: metrics of every step, a summary, and the loss curve as a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.training.loop import Progress

METRICS = "metrics.jsonl"


def summary(progress: Progress) -> dict[str, Any]:
    """First, last and best loss, and the tokens trained on; steps that only rehearse, whose loss is 0, tell none."""
    losses = [row["loss"] for row in progress.history if row["loss"] != 0] or [0.0]
    return {
        "first_loss": losses[0],
        "final_loss": losses[-1],
        "best_validation_loss": progress.best_loss,
        "best_step": progress.best_step or progress.step,
        "tokens": sum(row["tokens"] for row in progress.history),
    }


def write_results(
    folder: Path, lora: LoraConfig, training: TrainConfig, progress: Progress, facts: dict[str, Any]
) -> None:
    """Writes metrics.jsonl, training.json with `facts` and the settings, and loss.png."""
    with (folder / METRICS).open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(row) + "\n" for row in progress.history)
    record = {
        **facts,
        **summary(progress),
        "lora": dataclasses.asdict(lora),
        "training": dataclasses.asdict(training),
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    (folder / "training.json").write_text(text, encoding="utf-8", newline="\n")
    plot_losses(progress.history, folder / "loss.png")


def plot_losses(history: Iterable[dict[str, Any]], file: Path) -> None:
    """The loss curve as a PNG: training by step, and validation where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    history = list(history)
    figure, axes = plt.subplots(figsize=(7, 4), dpi=110)
    axes.plot([r["step"] for r in history], [r["loss"] for r in history], label="training")
    measured = [r for r in history if r.get("validation_loss") is not None]
    if measured:
        axes.plot([r["step"] for r in measured], [r["validation_loss"] for r in measured], "o-", label="validation")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss per supervised token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)


def other_machines(machines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Those that computed a part of the training before it was gone on with on the last of them."""
    return {"machines_before": {str(n): m for n, m in enumerate(machines[:-1], 1)}} if len(machines) > 1 else {}
