"""Engines over the tiny model, their adapters, and requests for them."""

import random
from pathlib import Path

import numpy as np

from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.files.weights import read_model_config
from jora_engine.generation.batching import Engine
from jora_engine.generation.requests import Request

ROWS = 8
ADAPTERS = {
    "one": LoraConfig(rank=1, alpha=2),
    "two": LoraConfig(rank=2, alpha=4, target_modules=("q_proj", "v_proj")),
    "three": LoraConfig(rank=3, alpha=5, use_rslora=True),
    "down": LoraConfig(rank=4, alpha=4, target_modules=("down_proj", "gate_proj"), layers_to_transform=(1,)),
    "eight": LoraConfig(rank=8, alpha=8),
    "wide": LoraConfig(rank=16, alpha=8, target_modules=("o_proj", "up_proj", "k_proj")),
}


def make_engine(model, memory, **options):
    return Engine(model, ROWS, adapters=memory, adapter_rank=16, chunks_between=1, **options)


def make_requests(names, count, seed=0, **options):
    rng = random.Random(seed)
    return [
        Request(
            tuple(rng.randrange(3, 400) for _ in range(rng.randint(1, 60))),
            rng.randint(1, 12),
            adapter=rng.choice(names),
            **options,
        )
        for _ in range(count)
    ]


def answers(engine, requests):
    jobs = [engine.submit(request) for request in requests]
    engine.run()
    return [job.completion for job in jobs]


def make_adapter(base: Path, folder: Path, lora: LoraConfig, seed: int, size: float = 0.3) -> Path:
    """An adapter with random factors of that size, in the layers that it is for."""
    model, rng = read_model_config(base), np.random.default_rng(seed)

    def factor(*shape: int) -> np.ndarray:
        out = rng.normal(0, size, (model.num_layers, *shape)).astype("f4")
        out[[i for i in range(model.num_layers) if i not in lora.layers(model.num_layers)]] = 0
        return out

    shapes = {name: linear_layers(model)[name].shape for name in lora.targets(model)}
    factors = {n: {"a": factor(lora.rank, i), "b": factor(o, lora.rank)} for n, (o, i) in shapes.items()}
    return write_adapter(folder, factors, lora, model, "base", {"base_digest": "x"})
