"""Training is exact: accumulation changes nothing, a resumed run equals an undisturbed one, a bad one stops."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.lora import init_lora
from jora_engine.training.checkpoint import Checkpoints
from jora_engine.training.job import Job, fine_tune, read_start
from jora_engine.training.loop import Trainer, plan_steps
from jora_engine.training.packing import Example
from raft_errors import BadInput, Interrupted, RaftError

LORA = LoraConfig(rank=4, alpha=8.0)
SOME_LAYERS = dataclasses.replace(LORA, layers_to_transform=(0, 2))
TRAIN = TrainConfig(
    learning_rate=1e-2,
    epochs=2,
    micro_batch_rows=1,
    accumulation=2,
    sequence_length=64,
    dtype="float32",
    checkpoint_every_steps=3,
)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Example(
            rng.integers(3, 96, rng.integers(5, 40)).astype(np.int32),
            rng.integers(3, 96, rng.integers(1, 15)).astype(np.int32),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def base(model_folder):
    folder = model_folder("smollm2")
    config = read_model_config(folder)
    return load_params(folder, config, "float32"), config


def make(base, config=TRAIN, lora=LORA, count=24, validation=()):
    return Trainer(*base, lora, config, examples(count), validation)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.wide
def test_micro_batches_add_up_to_one_big_batch(base):
    """Rows with different numbers of supervised tokens weigh by token, not by micro batch."""
    one = dataclasses.replace(TRAIN, accumulation=1, micro_batch_rows=4, max_steps=3)
    four = dataclasses.replace(TRAIN, accumulation=4, micro_batch_rows=1, max_steps=3)
    (big, a), (small, b) = make(base, one).run(), make(base, four).run()
    np.testing.assert_allclose([r["loss"] for r in a.history], [r["loss"] for r in b.history], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), big, small)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.wide), 0.2])
@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(base, tmp_path, dropout):
    lora = dataclasses.replace(LORA, dropout=dropout)
    validation = examples(5, seed=9)
    config = dataclasses.replace(TRAIN, eval_every_steps=2)
    whole, record = make(base, config, lora, validation=validation).run()
    assert len(record.history) > 8
    for stop_after in (7, 12, 10_000):  # stops twice in the middle of a step, then runs to the end
        trainer = make(base, config, lora, validation=validation)
        checkpoints = Checkpoints(tmp_path)
        asked = itertools.count()
        try:
            resumed, again = trainer.run(checkpoints, stop=lambda asked=asked, last=stop_after: next(asked) >= last)
        except Interrupted:
            continue
        finally:
            checkpoints.close()
    assert_same(whole, resumed)
    assert record == again


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(base, tmp_path):
    config = dataclasses.replace(TRAIN, checkpoint_every_steps=2, keep_checkpoints=2, max_steps=6)
    whole, _ = make(base, config).run()
    checkpoints = Checkpoints(tmp_path, keep=2)
    asked = itertools.count()
    with pytest.raises(Interrupted):
        make(base, config).run(checkpoints, stop=lambda: next(asked) >= 3 * 4 + 1)
    checkpoints.close()
    steps = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
    assert len(steps) == 2
    for file in (tmp_path / str(steps[-1])).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    events = []
    checkpoints = Checkpoints(tmp_path, keep=2)
    resumed, _ = make(base, config).run(checkpoints, report=events.append)
    checkpoints.close()
    assert {"event": "resumed", "step": steps[0]} in events
    assert_same(whole, resumed)


@pytest.mark.slow
def test_the_best_adapter_by_validation_is_returned_and_training_stops_early(base):
    """Random data cannot generalise: the validation loss rises while the training loss falls."""
    config = dataclasses.replace(
        TRAIN, learning_rate=3e-2, epochs=30, eval_every_steps=4, early_stopping_patience=2, schedule="constant"
    )
    trainer = make(base, config, validation=examples(6, seed=9))
    best, progress = trainer.run()
    losses = {r["step"]: r["validation_loss"] for r in progress.history if "validation_loss" in r}
    assert progress.step < len(trainer.schedule.steps)
    assert progress.best_loss == min(losses.values()) == losses[progress.best_step]
    assert progress.step == progress.best_step + 2 * 4
    np.testing.assert_allclose(trainer.evaluate(best), progress.best_loss, rtol=1e-6)


@pytest.mark.slow
def test_layers_outside_the_range_are_not_trained(base):
    lora, _ = make(base, dataclasses.replace(TRAIN, max_steps=3, weight_decay=0.1), SOME_LAYERS).run()
    for name in ("a", "b"):
        assert np.asarray(lora["q"][name])[[0, 2]].any()
        assert not np.asarray(lora["q"][name][1]).any()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_names_the_step(base):
    params, config = base
    broken = {**params, "final_norm": params["final_norm"].at[0].set(np.nan)}
    with pytest.raises(RaftError, match=r"diverged at step 1 .*last checkpoint is kept"):
        make((broken, config)).run()


def test_a_warm_start_goes_on_from_an_exported_adapter_and_leaves_it_whole(base, tmp_path):
    params, model = base
    earlier = jax.tree.map(lambda leaf: leaf + 0.01, init_lora(LORA, model, seed=3))
    write_adapter(tmp_path / "adapter", earlier, LORA, model, "base")
    found = read_start(tmp_path / "adapter", dataclasses.replace(LORA, dropout=0.1), model)
    assert_same(found, earlier)
    state = Trainer(params, model, LORA, TRAIN, examples(24), start=found).initial_state()
    assert_same(state.lora, earlier)
    jax.tree.map(lambda leaf: leaf.delete(), state.lora)
    assert_same(found, earlier)


@pytest.mark.parametrize("other", [{"rank": 8, "alpha": 16.0}, {"alpha": 4.0}, {"target_modules": ("q_proj",)}])
def test_a_warm_start_from_another_shape_or_scale_is_refused(base, tmp_path, other):
    model = base[1]
    write_adapter(tmp_path / "adapter", init_lora(LORA, model, seed=3), LORA, model, "base")
    with pytest.raises(BadInput, match="start from the base model"):
        read_start(tmp_path / "adapter", dataclasses.replace(LORA, **other), model)


def test_fewer_rows_than_one_batch_are_refused():
    with pytest.raises(BadInput, match=r"fewer than one batch of 64"):
        plan_steps(examples(10), dataclasses.replace(TRAIN, accumulation=64))


@pytest.fixture
def job(model_folder, bpe, tmp_path):
    """A trainer job on a tiny model with a real tokenizer; returns a function that writes JOB.json."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder("smollm2"), folder)
    bpe.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    vocab = bpe.get_vocab_size()
    tensors = load_file(folder / "model.safetensors")
    old = tensors["model.embed_tokens.weight"]
    rng = np.random.default_rng(0)
    tensors["model.embed_tokens.weight"] = (rng.standard_normal((vocab, old.shape[1])) * 0.1).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocab, "max_position_embeddings": 256}))
    rows = [
        {"instruction": f"What is {i}?", "input": f"[1] Numbers\nThe number {i} is here.", "output": f"It is {i}."}
        for i in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:5]))

    def write(name, **training):
        values = {
            "model": str(folder),
            "train": str(tmp_path / "train.jsonl"),
            "validation": str(tmp_path / "validation.jsonl"),
            "out": str(tmp_path / name / "out"),
            "work": str(tmp_path / name / "work"),
            "lora": {"r": 4, "lora_alpha": 8},
            "training": {"sequence_length": 256, "micro_batch_rows": 1, "epochs": 2, "dtype": "float32", **training},
        }
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(values))
        return file

    return write


def start(job_file):
    command = [sys.executable, "-P", "-m", "jora_engine.training.job", str(job_file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def finish(process):
    lines = [json.loads(line) for line in process.stdout]
    return process.wait(), lines


def fine_tune_here(job_file):
    """(error or None, events) of a job in this process, by the function that the process is for."""
    events = []
    try:
        fine_tune(Job.read(job_file), report=events.append)
    except RaftError as error:
        return error, events
    return None, events


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.heavy  # tests/flows/test_interrupts.py kills a training in a run
def test_killed_and_terminated_trainers_end_in_the_bytes_of_an_undisturbed_one(job, tmp_path):
    options = {"epochs": 30, "checkpoint_every_steps": 5}
    code, lines = finish(start(job("whole", **options)))
    assert code == 0
    assert lines[-1]["event"] == "done"
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    broken = job("broken", **options)
    for kind, expected in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        process = start(broken)
        seen = 0
        for line in process.stdout:
            seen += '"step", "steps"' in line
            if seen == 8:
                process.send_signal(kind)
                break
        code, rest = finish(process)
        assert code == expected, rest
    code, lines = finish(start(broken))
    assert code == 0
    assert lines[1]["event"] == "resumed"
    assert lines[1]["step"] > 5
    assert files(tmp_path / "whole" / "out") == files(tmp_path / "broken" / "out")


@pytest.mark.slow
def test_a_state_of_another_seed_in_the_work_folder_is_set_aside_and_leaves_no_trace(job, tmp_path):
    options = {"max_steps": 4, "checkpoint_every_steps": 2}
    for name in ("whole", "other"):
        assert fine_tune_here(job(name, seed=int(name == "whole"), **options))[0] is None
    error, lines = fine_tune_here(job("other", seed=1, **options))
    assert error is None
    told = [line["what"] for line in lines if line["event"] == "warning"]
    assert len(told) == 2
    assert all("another training (training seed 1 instead of 0)" in words for words in told)
    assert not any(line["event"] == "resumed" for line in lines)
    assert files(tmp_path / "whole" / "out") == files(tmp_path / "other" / "out")
    record = json.loads((tmp_path / "other" / "out" / "training.json").read_text())
    assert record["machine"] == {**record["machine"], "backend": "cpu", "attention": "blocked", "remat": "names"}
    assert "machines_before" not in record


@pytest.mark.slow
def test_a_trainer_dies_with_its_supervisor(job):
    """SIGKILL of the parent leaves no orphan: the trainer gets SIGTERM from the kernel."""
    file = job("orphan", epochs=2000)
    program = (
        "import os, subprocess, sys\n"
        "env = {**os.environ, 'RAFT_SUPERVISOR': str(os.getpid())}\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'jora_engine.training.job', {str(file)!r}], env=env, stdout=2)\n"
        "print(p.pid, flush=True)\n"
        "p.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    for line in parent.stderr:
        if '"step", "steps"' in line:
            break
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.2)
    else:
        pytest.fail("the trainer outlived its supervisor")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: neither a chat nor an Alpaca record"),
        ('{"instruction": "a", "output": ""}', "the answer is empty"),
    ],
)
def test_a_bad_record_is_named(job, tmp_path, line, message):
    file = job("bad")
    with (tmp_path / "train.jsonl").open("r+") as out:
        first = out.readline()
        out.seek(0)
        out.truncate()
        out.write(first + line + "\n")
    error, _ = fine_tune_here(file)
    assert isinstance(error, BadInput)
    assert message in error.what


@pytest.mark.slow
def test_a_token_beyond_the_embedding_is_refused_where_a_record_has_it_and_only_there(job, tmp_path):
    file = job("spare", max_steps=1)
    tokenizer = tmp_path / "model" / "tokenizer.json"
    values = json.loads(tokenizer.read_text())
    spare = max(values["model"]["vocab"].values()) + 1
    values["added_tokens"].append({**values["added_tokens"][0], "id": spare, "content": "<|spare|>", "special": False})
    tokenizer.write_text(json.dumps(values))
    assert fine_tune_here(file)[0] is None
    row = {"instruction": "What?", "input": "", "output": "It is <|spare|>."}
    with (tmp_path / "train.jsonl").open("a") as out:
        out.write(json.dumps(row) + "\n")
    error, _ = fine_tune_here(job("used", max_steps=1))
    assert isinstance(error, BadInput)
    assert f"record 41: the tokenizer makes '<|spare|>' token {spare}" in error.what


@pytest.mark.slow
def test_a_record_longer_than_the_model_reads_is_refused_before_training(job, tmp_path):
    file = job("long", sequence_length=512)
    row = {"instruction": "What?", "input": "number " * 40, "output": "It is."}
    with (tmp_path / "train.jsonl").open("a") as out:
        out.write(json.dumps(row) + "\n")
    code, lines = finish(start(file))
    assert code == 2
    assert "tokens" in lines[-1]["what"]
    assert "at most 256, the longest sequence" in lines[-1]["expected"]


@pytest.mark.slow
def test_a_training_that_is_gone_on_with_keeps_its_remat(job, tmp_path):
    file = job("auto", remat="auto", max_steps=2)
    work = tmp_path / "auto" / "work"
    work.mkdir(parents=True)
    (work / "remat").write_text("layer")  # what fitted beside a neighbour that has ended since
    assert fine_tune_here(file)[0] is None
    assert (work / "remat").read_text() == "layer"
    assert json.loads((tmp_path / "auto" / "out" / "training.json").read_text())["training"]["remat"] == "layer"
