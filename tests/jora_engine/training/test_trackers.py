"""Metric writers get the configuration and the metrics of a run, and nothing else; a broken one stops nothing."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from jora_engine.training.trackers import Trackers, flat, require_packages
from raft_errors import BadInput

CONFIG = {"lora": {"rank": 4}, "training": {"learning_rate": 1e-3}}
STEP = {"event": "step", "step": 3, "steps": 9, "loss": 1.5, "learning_rate": 1e-3, "gradient_norm": 0.5, "tokens": 7}


class Recorder:
    """Stands in for a library: notes every call by its dotted name."""

    def __init__(self, calls, name=""):
        self._calls, self._name = calls, name

    def __getattr__(self, name):
        return Recorder(self._calls, f"{self._name}.{name}" if self._name else name)

    def __call__(self, *args, **kwargs):
        self._calls.append((self._name, args, kwargs))
        return Recorder(self._calls, self._name)


@pytest.fixture
def stand_in(monkeypatch):
    """`stand_in("wandb")`: a recorder in the place of that package, and the list of its calls."""

    def put(name):
        calls = []
        module = ModuleType(name)
        module.__getattr__ = Recorder(calls).__getattr__
        monkeypatch.setitem(sys.modules, name, module)
        return calls

    return put


def told(calls, end):
    return [(args, kwargs) for name, args, kwargs in calls if name.endswith(end)]


def use(name, folder):
    trackers = Trackers([name], folder, "run-1", CONFIG)
    trackers.hear({"event": "start", "devices": ["cpu"]})
    trackers.hear(STEP)
    trackers.hear({**STEP, "step": 4, "validation_loss": 1.25})
    trackers.close()


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_writer_never_sees_the_environment(name, package, stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    calls = stand_in(package)
    use(name, tmp_path)
    assert calls
    assert "hunter2" not in repr(calls)
    assert "1.25" in repr(calls)
    assert any(word in repr(calls) for word in ("learning_rate",))


def test_tensorboard_gets_scalars_by_step(stand_in, tmp_path):
    calls = stand_in("tensorboardX")
    use("tensorboard", tmp_path)
    assert told(calls, "SummaryWriter") == [((str(tmp_path / "run-1"),), {})]
    assert (("loss", 1.5, 3), {}) in told(calls, "add_scalar")
    assert (("validation_loss", 1.25, 4), {}) in told(calls, "add_scalar")
    assert not any(args[0] == "tokens" for args, _ in told(calls, "add_scalar"))
    ((_, text), _) = told(calls, "add_text")[0]
    assert json.loads(text.split("```json\n")[1].removesuffix("\n```")) == CONFIG


def test_mlflow_gets_flat_parameters_and_no_tags(stand_in, tmp_path):
    calls = stand_in("mlflow")
    use("mlflow", tmp_path)
    assert [args[1:] for args, _ in told(calls, "log_param")] == [("lora.rank", 4), ("training.learning_rate", 1e-3)]
    assert told(calls, "log_metric")[0][1] == {"step": 3}
    assert not told(calls, "set_tag")
    assert not told(calls, "start_run")
    assert told(calls, "set_terminated")


def test_wandb_collects_nothing_by_itself(stand_in, tmp_path):
    calls = stand_in("wandb")
    use("wandb", tmp_path)
    ((_, settings),) = told(calls, "Settings")
    assert settings["x_disable_meta"]
    assert settings["disable_code"]
    assert settings["disable_git"]
    ((_, options),) = told(calls, "init")
    assert options["config"] == CONFIG


def test_a_writer_that_fails_is_dropped_and_training_goes_on(monkeypatch, tmp_path, caplog):
    def fail(*args):
        raise ConnectionError("server is down")

    writer = SimpleNamespace(add_text=lambda *a: None, add_scalar=fail, close=fail)
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=lambda folder: writer))
    with caplog.at_level(logging.WARNING):
        use("tensorboard", tmp_path)
    assert [r.getMessage() for r in caplog.records] == [
        "metric writer tensorboard is dropped: ConnectionError: server is down"
    ]


def test_a_missing_package_is_told_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput, match=r"needs the package wandb.*jora-raft\[wandb\]"):
        Trackers(["wandb"], tmp_path, "run", CONFIG)
    with pytest.raises(BadInput, match=r"needs the package wandb.*jora-raft\[wandb\]"):
        require_packages(["wandb"])
    with pytest.raises(BadInput, match="no metric writer 'comet'"):
        Trackers(["comet"], tmp_path, "run", CONFIG)


def test_nested_values_by_dotted_name():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
