"""Golden T9: adapters added up as one, exactly, whatever their ranks and modules; in one slot, and gone with their
parts."""

import dataclasses

import numpy as np
import pytest
import torch
from engines import ROWS, make_engine
from peft import PeftModel
from transformers import AutoModelForCausalLM

from jora_engine.adapters.peft_folder import read_adapter_config
from jora_engine.generation.adapter_memory import AdapterMemory, prepare_adapter
from jora_engine.generation.adapter_mixture import mixed
from jora_engine.generation.batching import Engine
from jora_engine.generation.compiles import count_compiles, watch_compiles
from jora_engine.generation.requests import Request
from raft_errors import BadInput

WEIGHTS = {"two": 0.625, "three": 0.25, "down": 0.125}  # three ranks, three sets of modules, one of layer 1 alone
PROMPT = tuple(range(3, 60))


def deltas(adapter) -> dict[str, np.ndarray]:
    """What an adapter adds to each weight, float64 [layers, out, in] by module."""
    factors = adapter.layout.factors(adapter.packed)
    return {name: np.einsum("lri,lro->loi", a.astype("f8"), b.astype("f8")) for name, (a, b) in factors.items()}


def test_a_mixture_adds_the_weighted_sum_of_what_its_parts_add(model, memory):
    parts = {name: memory.get(name) for name in WEIGHTS}
    mixture = mixed([(parts[name], weight) for name, weight in WEIGHTS.items()], model.config)
    assert mixture.rank == sum(part.rank for part in parts.values())
    sums: dict = {}
    for name, weight in WEIGHTS.items():
        for module, delta in deltas(parts[name]).items():
            sums[module] = sums.get(module, 0) + weight * delta
    both = deltas(mixture)
    assert both.keys() == sums.keys()
    for module, delta in both.items():
        assert np.abs(sums[module]).max() > 0.1
        np.testing.assert_allclose(delta, sums[module], atol=1e-6 * np.abs(sums[module]).max())


def test_the_sum_of_factors_that_it_is_not_has_cross_terms(model, memory):
    """Of one adapter twice at one half each a mixture is that adapter; the sum of its factors, each times the root of
    its weight as PEFT's `linear` has it, is twice that adapter."""
    part = memory.get("eight")
    mixture, alone = deltas(mixed([(part, 0.5), (part, 0.5)], model.config)), deltas(part)
    for name, (a, b) in part.layout.factors(part.packed).items():
        np.testing.assert_allclose(mixture[name], alone[name], atol=1e-6 * np.abs(alone[name]).max())
        summed = 2 * 0.5**0.5
        linear = np.einsum("lri,lro->loi", summed * a.astype("f8"), summed * b.astype("f8"))
        np.testing.assert_allclose(linear, 2 * alone[name], rtol=1e-9)


def test_the_engine_computes_what_peft_computes_with_its_exact_mixture(model, memory, base_folder, adapter_folders):
    engine = make_engine(model, memory)
    name = memory.compose(WEIGHTS)
    own = engine.logits(PROMPT, name)
    first, *others = WEIGHTS
    torch_model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32),
        adapter_folders[first],
        adapter_name=first,
    )
    for other in others:
        torch_model.load_adapter(adapter_folders[other], adapter_name=other)
    tokens = torch.tensor([PROMPT])
    with torch.no_grad():
        separate = []
        for adapter in WEIGHTS:
            torch_model.set_adapter(adapter)
            separate.append(torch_model(tokens).logits[0].numpy())
        with torch_model.disable_adapter():
            separate.append(torch_model(tokens).logits[0].numpy())
            for layer in torch_model.modules():  # the weighted sum of the separate deltas, written into the base
                for adapter in getattr(layer, "lora_A", ()):
                    layer.base_layer.weight += WEIGHTS[adapter] * layer.get_delta_weight(adapter)
            wanted = torch_model(tokens).logits[0].numpy()
    for one in separate:
        assert np.abs(wanted - one).max() > 0.1, "the mixture would pass for one of its parts, or for the base"
    np.testing.assert_allclose(own, wanted, atol=2e-4 * np.abs(wanted).max())
    assert len({read_adapter_config(adapter_folders[name]).scale for name in WEIGHTS}) == 3, "each has its own scale"


@pytest.mark.slow
def test_a_mixture_has_one_slot_and_one_name_and_compiles_nothing(model, memory):
    engine = Engine(model, ROWS, adapters=memory, adapter_rank=16, chunks_between=1, prefix_bytes=1 << 20)
    watch_compiles()
    engine.warm(128)
    name = memory.compose(WEIGHTS)
    assert memory.compose(dict(reversed(WEIGHTS.items()))) == name
    warm = count_compiles()
    jobs = [engine.submit(Request(PROMPT, 4, adapter=name)) for _ in range(3)]
    engine.run()
    assert count_compiles() == warm
    assert list(engine.slots.digests().values()) == [memory.get(name).digest]
    assert len({job.completion.token_ids for job in jobs}) == 1
    assert jobs[2].cached_tokens or jobs[1].cached_tokens, "its prompts are remembered under its own digest"
    other = memory.compose(WEIGHTS | {"two": 0.5})
    assert memory.get(other).digest != memory.get(name).digest, "another weight is another adapter"


def test_a_mixture_goes_with_the_first_of_its_parts(model, memory, adapter_folders):
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    name = memory.compose(WEIGHTS)
    job = engine.submit(Request(PROMPT, 4, adapter=name))
    engine.run()
    digest = memory.get(name).digest
    assert digest in engine.slots.digests().values()
    engine.unload("three")
    with pytest.raises(BadInput, match="no adapter 'mix"):
        engine.submit(Request(PROMPT, 4, adapter=name))
    engine.submit(Request((9, 9), 1))
    engine.run()
    assert digest not in engine.slots.digests().values()
    assert not memory._digests.keys() - set(memory.names())
    with pytest.raises(BadInput, match="no adapter 'three'"):
        memory.compose(WEIGHTS)
    memory.register("three", adapter_folders["three"])
    again = engine.submit(Request(PROMPT, 4, adapter=memory.compose(WEIGHTS)))
    engine.run()
    assert again.completion == job.completion
    assert again.cached_tokens == 0


def test_a_part_that_is_replaced_is_in_the_mixture_too(model, memory, adapter_folders):
    name = memory.compose(WEIGHTS)
    before = memory.get(name).digest
    memory.register("three", adapter_folders["one"])
    assert memory.get(name).digest != before
    assert memory.get(name).rank == 2 + 1 + 4


def test_what_has_no_room_is_refused_with_both_numbers(model, adapter_folders):
    memory = AdapterMemory(model.config, "float32", mixed_rank=16)
    for name in ("eight", "wide"):
        memory.register(name, adapter_folders[name])
    with pytest.raises(BadInput, match=r"ranks 8 \+ 16 have rank 24 together, which is above the limit of 16"):
        memory.get(memory.compose({"eight": 0.5, "wide": 0.5}))
    assert memory.get("wide").rank == 16, "alone it is served"
    for weights in ({}, {"eight": 0.0}, {"eight": float("nan")}, {"eight": -0.5, "wide": 1.5}):
        with pytest.raises(BadInput, match="needs parts"):
            memory.compose(weights)


def test_bfloat16_parts_are_rounded_once_more_at_most(model, adapter_folders):
    exact, rounded = (
        mixed([(prepare_adapter(adapter_folders[name], model.config, dtype), 0.375) for name in WEIGHTS], model.config)
        for dtype in ("float32", "bfloat16")
    )
    assert str(rounded.packed.dtype) == "bfloat16"
    # two roundings of eight bits each
    np.testing.assert_allclose(rounded.packed.astype("f4"), exact.packed, rtol=2**-7)
    assert dataclasses.replace(rounded).layout == exact.layout
