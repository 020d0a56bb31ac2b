"""Adapters in one stack add what each adds alone, whatever form the product has; swapping them compiles nothing."""

import dataclasses
import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import make_adapter
from jax import lax

from jora_engine.config.lora import LoraConfig
from jora_engine.generation import decode as programs
from jora_engine.generation.adapter_layout import layout_for
from jora_engine.generation.adapter_memory import prepare_adapter
from jora_engine.generation.adapter_slots import AdapterSlots
from jora_engine.generation.batching import Engine
from jora_engine.generation.compiles import count_compiles, watch_compiles
from jora_engine.generation.loaded import load_model
from jora_engine.generation.row_arrays import row_arrays
from jora_engine.model.lora import Slotted

RANKS = (1, 2, 3, 8, 16, 33, 64)  # a kernel of LoRAX was wrong for some


@pytest.fixture(scope="module")
def prepared(model, base_folder, tmp_path_factory):
    """An adapter of each rank."""
    root = tmp_path_factory.mktemp("ranks")
    folders = [make_adapter(base_folder, root / str(r), LoraConfig(rank=r, alpha=2.0 * r), r) for r in RANKS]
    return [prepare_adapter(folder, model.config, "float32") for folder in folders]


@pytest.fixture
def filled(model, prepared):
    """Slots with all of them, slot n + 1 holding the one of `RANKS[n]`."""
    slots = AdapterSlots(model.config, "float32", len(RANKS) + 1)
    for adapter in prepared:
        slots.acquire(adapter)
    return slots


def stacks(slotted: Slotted) -> tuple[np.ndarray, list[np.ndarray]]:
    return np.asarray(slotted.a), [np.asarray(b) for b in slotted.b]


@pytest.mark.slow
def test_the_stack_s_product_equals_gathered_and_ragged_products(filled):
    """Golden T8: dense over all slots = gather per token = `ragged_dot` over tokens sorted by slot."""
    rng = np.random.default_rng(0)
    token_slot = np.array([0, 7, 2, 2, 5, 1, 0, 3, 6, 4])
    own = jnp.asarray(token_slot[:, None] == np.arange(filled.count))
    order = np.argsort(token_slot, kind="stable")
    sizes = jnp.asarray(np.bincount(token_slot, minlength=filled.count), jnp.int32)
    for slotted in filled.layers[1].values():
        a, bs = stacks(slotted)
        x = rng.normal(size=(len(token_slot), a.shape[-1])).astype("f4")
        dense = jax.jit(Slotted.deltas)(dataclasses.replace(slotted, own=own), x)
        for number, (name, b) in enumerate(zip(slotted.names, bs, strict=True)):
            gathered = np.einsum("ti,tri,tro->to", x, a[token_slot, number], b[token_slot])
            low = lax.ragged_dot(jnp.asarray(x[order]), jnp.asarray(a[:, number]).transpose(0, 2, 1), sizes)
            ragged = np.empty_like(gathered)
            ragged[order] = lax.ragged_dot(low, jnp.asarray(b), sizes)
            scale = np.abs(gathered).max()
            np.testing.assert_allclose(dense[name], gathered, atol=1e-5 * scale)
            np.testing.assert_allclose(dense[name], ragged, atol=1e-5 * scale)
            assert not np.asarray(dense[name])[token_slot == 0].any(), "slot 0 adds exactly nothing"
            sizes_of = [np.abs(gathered[token_slot == slot]).max() for slot in range(1, len(RANKS) + 1)]
            assert min(sizes_of) > 0.01, sizes_of


def test_a_token_s_sum_does_not_depend_on_what_the_other_slots_hold(model, prepared, filled):
    alone = AdapterSlots(model.config, "float32", len(RANKS) + 1)
    alone.reserve(filled.rank)
    x = np.random.default_rng(1).normal(size=(8, 1, model.config.hidden_size)).astype("f4")
    for number, adapter in enumerate(prepared):
        alone.evict(next(iter(alone.digests().values()), ""))
        slot = alone.acquire(adapter)
        alone.release(slot)
        for of, at in ((filled, number + 1), (alone, slot)):
            own = jnp.asarray(np.arange(of.count)[None] == np.full((8, 1), at))
            slotted = dataclasses.replace(of.layers[0]["q+k+v"], own=own)
            out = jax.jit(Slotted.deltas)(slotted, x[:, 0])
            if of is filled:
                want = out
        assert all(np.array_equal(out[name], want[name]) for name in want)


def test_swapping_adapters_of_all_ranks_compiles_nothing(model, prepared):
    slots = AdapterSlots(model.config, "float32", 2)
    slots.reserve(max(RANKS))
    slots.warm()
    watch_compiles()
    before = count_compiles()
    for _ in range(2):
        for adapter in prepared:
            slot = slots.acquire(adapter)
            layer = slots.layout.factors(adapter.in_layout(slots.layout))
            for slotted in slots.layers[0].values():
                a, bs = stacks(slotted)
                for number, name in enumerate(slotted.names):
                    np.testing.assert_array_equal(a[slot, number], layer[name][0][0])
                    np.testing.assert_array_equal(bs[number][slot], layer[name][1][0])
            slots.release(slot)
    assert count_compiles() == before
    assert slots.figures()["asked"] == 2 * len(RANKS)


def test_an_adapter_has_the_numbers_of_its_folder_in_every_layout(model, base_folder, tmp_path):
    from jora_engine.adapters.peft_folder import read_factors

    lora = LoraConfig(rank=3, alpha=6.0, target_modules=("q_proj", "down_proj"), layers_to_transform=(1,))
    folder = make_adapter(base_folder, tmp_path / "a", lora, 0)
    adapter, (factors, config) = prepare_adapter(folder, model.config, "float32"), read_factors(folder, model.config)
    wide = layout_for(model.config, 20, {"q", "k", "o", "down"})
    assert (adapter.layout.rank, wide.rank) == (8, 24)
    for layout in (adapter.layout, wide):
        packed = layout.factors(adapter.in_layout(layout))
        assert set(packed) == set(layout.names)
        for name, (a, b) in packed.items():
            if name in factors:
                np.testing.assert_array_equal(a[:, :3], factors[name]["a"])
                np.testing.assert_array_equal(b[:, :3], factors[name]["b"].transpose(0, 2, 1) * config.scale)
            assert not a[:, 3:].any()
            assert not b[:, 3:].any()
            assert name in factors or not a.any()


def test_adapters_have_one_digest_exactly_if_they_answer_alike(model, base_folder, tmp_path):
    folder = make_adapter(base_folder, tmp_path / "a", LoraConfig(rank=4, alpha=4.0), 0)
    want = prepare_adapter(folder, model.config, "float32").digest
    assert prepare_adapter(folder, model.config, "float32").digest == want
    assert prepare_adapter(folder, model.config, "bfloat16").digest != want
    other = make_adapter(base_folder, tmp_path / "b", LoraConfig(rank=4, alpha=4.0), 1)
    assert prepare_adapter(other, model.config, "float32").digest != want
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 8.0}))
    assert prepare_adapter(folder, model.config, "float32").digest != want


@pytest.mark.slow
def test_a_decode_call_does_not_make_the_stack_anew(base_folder):
    """Held as bits, every factor of every slot became a bfloat16 array again at the beginning of each call."""
    model = load_model(base_folder, dtype="bfloat16")
    engine = Engine(model, 8, adapter_rank=8)
    arrays = row_arrays([None] * 8, model.tokenizer.eos_ids)
    program = programs.decode.lower(
        model.params, model.layers, engine.slots.layers, engine._cache, *arrays, engine._no_limits, config=model.config
    ).compile()
    assert "while(" in program.as_text()
    assert not re.search(r"= bf16\[\S* bitcast-convert\(", program.as_text())


def test_figures_may_be_asked_for_while_slots_change(filled):
    class Users(Counter):
        def __getitem__(self, slot):  # as the engine's thread does it meanwhile
            filled._held.move_to_end(next(iter(filled._held)))
            return super().__getitem__(slot)

    filled.users = Users(filled.users)
    assert filled.figures()["used"] == len(RANKS)
