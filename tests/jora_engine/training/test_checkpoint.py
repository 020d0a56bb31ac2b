"""A state is gone on from only where it is whole and of the same job; whatever else lies there, the bytes are right."""

import dataclasses
import itertools
import json
import os
import random
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.lora import init_lora
from jora_engine.training.checkpoint import KEPT_ASIDE, SEAL, Checkpoints
from jora_engine.training.identity import training_identity
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example
from raft_errors import Interrupted

LORA = LoraConfig(rank=4, alpha=8.0)
TRAIN = TrainConfig(  # random data cannot generalise: patience runs out before the steps do
    learning_rate=3e-2,
    schedule="constant",
    epochs=30,
    eval_every_steps=2,
    early_stopping_patience=2,
    micro_batch_rows=1,
    sequence_length=64,
    dtype="float32",
    checkpoint_every_steps=2,
)
JOB, MACHINE = {"seed": 0}, {"backend": "cpu", "cpu_features": ["avx2", "fma"]}


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = [(rng.integers(5, 40), rng.integers(1, 15)) for _ in range(count)]
    return [Example(*(rng.integers(3, 96, n).astype(np.int32) for n in pair)) for pair in lengths]


@pytest.fixture(scope="module")
def base(model_folder):
    folder = model_folder("smollm2")
    config = read_model_config(folder)
    return load_params(folder, config, "float32"), config


class Case:
    """One trainer, its undisturbed result, and a folder with the states of steps 2 and 4, as a kill leaves them."""

    def __init__(self, base, folder, rank):
        self.trainer = Trainer(*base, LoraConfig(rank=rank, alpha=8.0), TRAIN, examples(16), examples(6, seed=9))
        self.whole = self.trainer.run()
        self.folder = folder
        asked = itertools.count()
        checkpoints = Checkpoints(folder / "killed", keep=2, job=JOB, machine=MACHINE)
        with pytest.raises(Interrupted):
            self.trainer.run(checkpoints, stop=lambda: next(asked) >= 2 * 4)
        checkpoints.close()
        assert checkpoints.steps() == [2, 4]
        assert 4 < self.whole[1].step < len(self.trainer.schedule.steps)
        self.trainer.config = dataclasses.replace(TRAIN, checkpoint_every_steps=0)  # from here on one save at the end

    def copy(self, name):
        return shutil.copytree(self.folder / "killed", self.folder / name)

    def resume(self, folder, job=JOB, machine=MACHINE):
        """Trains on from the folder: (adapter, progress), what was told, step at which it went on (None = afresh)."""
        told, events = [], []
        checkpoints = Checkpoints(folder, keep=2, job=job, machine=machine, tell=told.append)
        result = self.trainer.run(checkpoints, report=events.append)
        checkpoints.close()
        self.machines = checkpoints.machines
        return result, told, next((e["step"] for e in events if e["event"] == "resumed"), None)


@pytest.fixture(scope="module")
def case(base, tmp_path_factory):
    return Case(base, tmp_path_factory.mktemp("case"), rank=4)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert json.dumps(vars(one[1])) == json.dumps(vars(other[1]))  # as text: its rows become a file


def plain_files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(file, draw):
    body = bytearray(file.read_bytes())
    body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    file.write_bytes(bytes(body))


@pytest.mark.parametrize("rank", [4, pytest.param(16, marks=pytest.mark.wide)])
@pytest.mark.slow
def test_a_bit_flipped_in_any_file_of_a_state_costs_steps_and_no_byte(base, request, tmp_path, rank):
    case = request.getfixturevalue("case") if rank == 4 else Case(base, tmp_path, rank)
    draw, state = random.Random(rank), case.folder / "killed" / "4"
    names = [p.relative_to(state) for p in plain_files(state)]
    assert len(names) > 5
    for number, name in enumerate(names if rank == 4 else draw.sample(names, 4)):
        folder = case.copy(f"bit{number}")
        flip(folder / "4" / name, draw)
        result, told, step = case.resume(folder)
        assert (step, len(told)) == (2, 1), name
        (aside,) = (case.folder / f"bit{number}.set-aside").iterdir()
        assert str(aside) in told[0]
        assert f"{name} is not as it was saved" in told[0]
        assert [p.relative_to(aside) for p in plain_files(aside)] == names
        assert_same(result, case.whole)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "half", "gone", "more", "pipe"])
def test_where_no_state_is_whole_training_starts_afresh_and_ends_in_the_same_bytes(case, damage, monkeypatch):
    monkeypatch.setattr(case.trainer, "config", TRAIN)  # it comes by the steps of the damaged states, and saves there
    folder, draw = case.copy(damage), random.Random(damage)
    for step in ("2", "4"):
        files = plain_files(folder / step)
        one = draw.choice(files)
        if damage == "flip":
            flip(one, draw)
        elif damage == "half":
            for file in files:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif damage == "gone":
            for file in files:
                file.unlink()
        elif damage == "more":
            one.with_name("another").write_bytes(b"")
        else:
            one.unlink()
            os.mkfifo(one)
    result, told, step = case.resume(folder)
    assert step is None
    assert len(told) == 2
    assert all("training starts from the beginning" in words for words in told)
    assert_same(result, case.whole)


def test_a_state_under_another_step_s_name_is_not_taken_for_that_step(case):
    folder = case.copy("renamed")
    (folder / "4").rename(folder / "5")
    result, told, step = case.resume(folder)
    assert step == 2
    assert f"{SEAL} is not as it was saved" in told[0]
    assert_same(result, case.whole)


def test_states_of_another_job_are_kept_aside_and_the_difference_is_told(case):
    folder = case.copy("other")
    result, told, step = case.resume(folder, job={"seed": 1})
    assert step is None
    assert all("it belongs to another training (seed 1 instead of 0)" in words for words in told)
    assert len(list((case.folder / "other.set-aside").iterdir())) == 2
    assert_same(result, case.whole)  # this trainer's own


def test_states_of_a_version_without_digests_are_kept_aside(case, tmp_path):
    """They are laid out as orbax's own manager does it, which this project used before."""
    manager = ocp.CheckpointManager(
        (tmp_path / "old").absolute(), options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    )
    notes = ocp.args.JsonSave(dict(vars(case.whole[1])))
    manager.save(
        6, args=ocp.args.Composite(state=ocp.args.StandardSave(case.trainer.initial_state()), notes=notes), force=True
    )
    manager.close()
    result, told, step = case.resume(tmp_path / "old")
    assert step is None
    assert "it has no digest" in told[0]
    assert_same(result, case.whole)


@pytest.mark.slow
def test_another_machine_is_told_in_one_line_and_training_goes_on(case):
    there = {"backend": "cpu", "cpu_features": ["avx2", "amx_bf16"]}
    result, told, step = case.resume(case.copy("moved"), machine=there)
    assert step == 4
    assert told == [
        "checkpoint 4 was computed elsewhere (cpu_features without fma, cpu_features with amx_bf16): training goes on "
        "from it, but the bytes of a run on one machine cannot be promised"
    ]
    assert case.machines == [MACHINE, there]
    assert_same(result, case.whole)  # it was the same machine after all
    _, told, _ = case.resume(case.copy("stayed"))
    assert told == []


@pytest.mark.slow
def test_a_disk_that_spoils_every_state_does_not_fill_up(case, tmp_path):
    state, told = case.trainer.initial_state(), []
    for step in range(1, KEPT_ASIDE + 3):
        checkpoints = Checkpoints(tmp_path / "states", job=JOB, tell=told.append)
        checkpoints.save(step, state, {})
        flip(tmp_path / "states" / str(step) / SEAL, random.Random(step))
        assert checkpoints.restore(state) is None
        checkpoints.close()
    steps = sorted(int(p.name.rpartition("-")[2]) for p in (tmp_path / "states.set-aside").iterdir())
    assert steps == list(range(3, KEPT_ASIDE + 3))
    assert "the oldest was removed" in told[-1]
    assert "the oldest was removed" not in told[0]


def test_a_save_that_a_kill_cut_short_leaves_no_trace(case):
    folder = case.copy("cut")
    (folder / "4").rename(folder / ".4.partial")
    result, told, step = case.resume(folder)
    assert (step, told) == (2, [])
    assert not list(folder.glob(".*"))
    assert_same(result, case.whole)


def test_a_training_killed_after_its_early_stop_takes_no_further_step(case, tmp_path):
    """The state of the stop is saved, the export is not; each new start must end where the first did."""
    for _ in range(3):
        events = []
        checkpoints = Checkpoints(tmp_path / "states", keep=2)
        again = case.trainer.run(checkpoints, report=events.append)
        checkpoints.close()
        assert_same(again, case.whole)
        stop = {"event": "early-stop", "step": case.whole[1].step, "best_step": case.whole[1].best_step}
        assert events.count(stop) == 1


# ---- what a job is


def identity(model_folder, **changes):
    known = {
        "examples": examples(6),
        "validation": examples(2, seed=9),
        "base": model_folder("smollm2"),
        "base_digest": "",
        "start": None,
        "lora": LORA,
        "training": TRAIN,
    }
    return training_identity(**{**known, **changes})


def edited(rows):
    return [*rows[:-1], Example(rows[-1].prompt, rows[-1].completion + 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"examples": edited(examples(6))},
        {"examples": examples(6)[::-1]},
        {"validation": []},
        {"base_digest": "another"},
        {"lora": dataclasses.replace(LORA, rank=8)},
        {"lora": dataclasses.replace(LORA, dropout=0.1)},
        {"training": dataclasses.replace(TRAIN, seed=1)},
        {"training": dataclasses.replace(TRAIN, learning_rate=2e-2)},
        {"training": dataclasses.replace(TRAIN, early_stopping_patience=1)},
        {"training": dataclasses.replace(TRAIN, max_steps=7)},
    ],
)
def test_what_decides_the_adapter_makes_another_job(model_folder, change):
    assert identity(model_folder, **change) != identity(model_folder)


def test_other_weights_and_another_start_make_another_job(model_folder, tmp_path):
    plain = identity(model_folder)
    assert identity(model_folder, base=model_folder("llama"))["base"] != plain["base"]
    model = read_model_config(model_folder("smollm2"))
    starts = [
        identity(model_folder, start=write_adapter(tmp_path / str(seed), init_lora(LORA, model, seed), LORA, model, ""))
        for seed in (1, 2)
    ]
    assert len({entry["start"] for entry in [plain, *starts]}) == 3


def test_how_often_it_saves_and_where_it_runs_leave_the_job_the_same(model_folder):
    other = dataclasses.replace(TRAIN, checkpoint_every_steps=1, keep_checkpoints=5, mesh=(1, 1, 1, 1))
    assert identity(model_folder, training=other) == identity(model_folder)
