"""The section `train` and the engine's own configuration are one recipe: same names, same defaults."""

import dataclasses
from types import SimpleNamespace

import pytest

from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from tasks.train import TrainSection
from tasks.work.train import LORA_FIELDS, NOT_THE_ENGINES, engine_job

OF_THE_PROCESS = {*NOT_THE_ENGINES, "writers"}


def test_each_field_of_the_section_is_one_of_the_engine_s_with_its_default():
    engine = {f.name: f.default for kind in (LoraConfig, TrainConfig) for f in dataclasses.fields(kind)}
    section = TrainSection()
    for name in TrainSection.model_fields.keys() - OF_THE_PROCESS:
        assert getattr(section, name) == engine[name], name


def test_what_the_section_does_not_say_the_engine_decides(tmp_path):
    base = SimpleNamespace(folder=tmp_path, chat={})
    job = engine_job(TrainSection(), base, TrainConfig.seed, tmp_path)
    assert TrainConfig.from_dict(job["training"]) == TrainConfig()
    assert LoraConfig.from_dict(job["lora"]) == LoraConfig()
    assert set(LORA_FIELDS) < {f.name for f in dataclasses.fields(LoraConfig)}


@pytest.mark.parametrize(("parameters", "rate"), [(135e6, 1e-3), (1.5e9, 5e-4), (8e9, 2e-4)])
def test_smaller_bases_take_larger_rates_unless_one_is_given(parameters, rate):
    assert TrainConfig().for_base(int(parameters)).learning_rate == rate
    given = TrainConfig(learning_rate=3e-3)
    assert given.for_base(int(parameters)) == given
