"""Whether training can go on from the promoted version: by what was chosen, and not by what a release brought."""

from types import SimpleNamespace

import pytest

from flows.retraining.night import _obstacle
from tasks.build.keys import result_fields
from tasks.train import TrainSection


def obstacle(then: dict, now: TrainSection) -> str:
    train = SimpleNamespace(ingredients={"models": {"base": "b"}, "config": then})
    run = SimpleNamespace(config=SimpleNamespace(train=now), models={"base": SimpleNamespace(digest="b")})
    return _obstacle(run, {"train": train, "records": train})


@pytest.mark.parametrize("name", ["use_rslora", "layers_to_transform"])
def test_a_setting_that_the_earlier_release_did_not_know_is_no_obstacle_at_its_default(name):
    then = {n: value for n, value in result_fields(TrainSection()).items() if n != name}
    assert obstacle(then, TrainSection()) == ""
    assert obstacle(then, TrainSection(**{name: {"use_rslora": True}.get(name, [0])})).startswith(
        f"train.{name}: null →"
    )


def test_another_shape_of_the_adapter_is_one_and_another_learning_rate_is_none():
    then = result_fields(TrainSection(rank=8, dropout=0.1, learning_rate=1e-3))
    assert obstacle(then, TrainSection(rank=16)) == "train.rank: 8 → 16"
    assert obstacle(then, TrainSection(rank=8, epochs=1)) == ""
