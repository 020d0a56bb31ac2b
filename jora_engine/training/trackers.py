"""Optional writers of training metrics: TensorBoard, MLflow, Weights & Biases. metrics.jsonl stays the truth.

Each is an extra that is imported only where it is asked for. They get the run's configuration and its metrics, never
the environment, the command line or the code; one that fails is dropped with a warning and training goes on.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from raft_errors import BadInput

log = logging.getLogger("raft.engine")

PROJECT = "raft"
METRICS = ("loss", "validation_loss", "learning_rate", "gradient_norm", "tokens_per_second")


class Tracker(Protocol):
    """Takes the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder`, through tensorboardX (which needs no TensorFlow)."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self._writer = _package("tensorboard").SummaryWriter(str(folder / name))
        self._writer.add_text("configuration", f"```json\n{json.dumps(config, indent=1, sort_keys=True)}\n```")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run in the experiment `raft` of the tracking server that MLflow is set up for."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        # the client and not `mlflow.start_run`, which adds user, source file and git commit by itself
        self._client = _package("mlflow").MlflowClient()
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        for key, value in flat(config).items():
            self._client.log_param(self._run, key, value)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._client.log_metric(self._run, key, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandB:
    """A run in the project `raft`; everything that W&B collects by itself is switched off."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        wandb = _package("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(project=PROJECT, name=name, config=dict(config), dir=str(folder), settings=quiet)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def require_packages(names: Sequence[str]) -> None:
    """Sees that the writers' packages are installed, without importing them.

    Raises:
        BadInput: one is not.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise _missing(name)


class Trackers:
    """The writers of a run, as one."""

    def __init__(self, names: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]) -> None:
        """Opens them.

        Args:
            names: of `TRACKERS`.
            folder: for writers that keep files.
            name: of the run.
            config: JSON values, all that the writers learn of the run besides its metrics.

        Raises:
            BadInput: a name is unknown, or its package is not installed.
        """
        self._open: dict[str, Tracker] = {}
        for wanted in names:
            if wanted not in TRACKERS:
                raise BadInput(f"no metric writer {wanted!r}", expected="one of " + ", ".join(TRACKERS))
            self._guard(wanted, functools.partial(self._start, wanted, folder, name, config))

    def _start(self, wanted: str, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self._open[wanted] = TRACKERS[wanted](folder, name, config)

    def hear(self, event: Mapping[str, Any]) -> None:
        """Passes on the metrics of a `step` event; others are not theirs."""
        if event.get("event") != "step":
            return
        metrics = {key: float(event[key]) for key in METRICS if event.get(key) is not None}
        for name, tracker in list(self._open.items()):
            self._guard(name, functools.partial(tracker.log, event["step"], metrics))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.close)

    def _guard(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except BadInput:
            raise
        except Exception as error:  # noqa: BLE001  a metrics server that is down must not stop a training run
            log.warning("metric writer %s is dropped: %s: %s", name, type(error).__name__, error)
            self._open.pop(name, None)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _package(name: str) -> Any:
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise _missing(name, f" ({error})") from error


def _missing(name: str, why: str = "") -> BadInput:
    return BadInput(
        f"the metric writer {name} needs the package {PACKAGES[name]}{why}",
        expected="the package installed",
        do=f"pip install 'jora-raft[{name}]', or take {name} out of train.writers",
    )
