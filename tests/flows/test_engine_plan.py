"""`raft plan --engine` says what training takes, from the records where they are built, and trains nothing."""

import pytest

from flows.engine_plan import lines

GIB = 2**30


@pytest.mark.slow
def test_the_plan_counts_the_records_and_knows_the_last_speed(warm):
    reply = warm.json("plan", "--engine")
    (plan,) = reply["tried"]
    trained = next(row for row in warm.json("run", "--no-prefect")["stages"] if row["stage"] == "train")
    assert reply["fits"]
    assert plan["steps"] == trained["metrics"]["steps"]
    assert plan["tokens"] == trained["metrics"]["tokens"]
    assert plan["seconds"] > 0
    assert plan["total"] == sum(plan["bytes"].values()) < GIB


@pytest.mark.slow
def test_devices_that_are_not_here_can_be_planned_for(project):
    text = project.raft("plan", "--devices", "2", "--memory", "1", "--set", "train.micro_batch_rows=2").stdout
    assert "devices: 2 (fsdp 2), compiled for cpu, not run" in text
    assert "of 1.00 GiB a device" in text
    assert "no records yet" in text


@pytest.mark.slow
def test_a_mesh_that_does_not_fit_is_refused(project):
    process = project.raft("plan", "--devices", "3", "--set", "train.mesh=[1,2,1,1]", check=False)
    assert process.returncode == 2
    assert "does not fit 3 devices" in process.stderr


def test_one_step_is_told_as_one():
    plan = {"bytes": {}, "available": None, "remat": "names", "micro_batch_rows": 1, "sequence_length": 64}
    plan |= {"accumulation": 1, "total": GIB, "mesh": {}, "devices": 1, "compiled_for": "cpu", "steps": 1, "tokens": 64}
    text = "\n".join(lines([plan | {"padding": 0.0, "flops": 1e9, "seconds": None, "collectives": {}, "notes": []}]))
    assert "1 step, 64 tokens, 0.0 % padding" in text
