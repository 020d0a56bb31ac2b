"""A night that is killed anywhere is brought to its end by the next one, and the log tells what happened exactly once.

The stages here are made of a few bytes; registry, log, store and the night itself are the real ones. A night is killed
before each stage, and from the gate on before and after each durable write.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.retraining import concluding
from flows.retraining import night as nights
from flows.retraining.night import retrain
from flows.run import Run
from raft_errors import RaftError
from tasks.adapters.decisions import open_file, read_decisions
from tasks.adapters.registry import Registry
from tasks.build.events import silent
from tasks.build.keys import key_of, result_fields
from tasks.build.stage import Request
from tasks.config import RunConfig
from tasks.inputs.models import ModelFiles
from tasks.store.manifest import Manifest
from tasks.store.store import Store


class Killed(BaseException):
    """The process is gone."""


class World:
    """An adapter, its store and its corpus; `die_at` is the step at which the next night is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docs").mkdir(parents=True)
        self.edit("Alder has a stone mill.")
        self.verdict, self.smoke_fails = "promote", False
        self.step, self.die_at, self.near_the_end = 0, 0, False
        self.tested: list[int] = []
        self.store = Store(folder / "store")
        self.registry = Registry(self.store, "town")

    def edit(self, text: str) -> None:
        (self.folder / "docs" / "alder.md").write_text(text)

    def night(self, *, force: bool = False, die_at: int = 0):
        """The night's decision; None if it was killed."""
        self.step, self.die_at, self.near_the_end = 0, die_at, False
        config = RunConfig(name="town", corpus=[str(self.folder / "docs")], store=str(self.folder / "store"))
        models = {"base": ModelFiles("base", self.folder, "b" * 64, "folder")}
        try:
            return retrain(Run(config, self.store, models, silent), direct=True, force=force)
        except Killed:
            return None

    def may_die(self) -> None:
        self.step += 1
        if self.step == self.die_at:
            raise Killed

    def smoke_test(self, registry, version, base, records, config) -> str:
        assert registry.pointer.resolve() == self.store.folder("export", version.stages["export"].key)
        self.may_die()
        self.tested.append(version.number)
        if self.smoke_fails:
            raise RaftError("it says nothing")
        return "it answers"

    def build(self, request: Request) -> Manifest:
        name = request.stage.name
        self.may_die()
        inputs = {n: value.digest for n, value in request.inputs.items()}
        key = key_of({"stage": name, "inputs": inputs})
        self.near_the_end = self.near_the_end or name == "gate"
        if made := self.store.load(name, key):
            return made
        with self.store.publish(name, key) as (out, manifest):
            for file, text in self.files(name, key).items():
                (out / file).write_text(text)
            manifest.lineage = {n: v.link for n, v in request.inputs.items() if isinstance(v, Manifest)}
            manifest.ingredients = {"inputs": inputs, "models": {"base": "b" * 64}}
            manifest.ingredients["config"] = result_fields(request.config)
            manifest.metrics = {"gate": {"verdict": self.verdict, "reason": "as the gate says"}}.get(name, {})
            manifest.metrics |= {"new": 1, "repeated": 1} if name == "replay" else {}
        return manifest

    def files(self, name: str, key: str) -> dict[str, str]:
        text = (self.folder / "docs" / "alder.md").read_text()
        row = {"id": "d", "source": "alder.md", "title": "", "text": text, "sha256": key, "media_type": "text/markdown"}
        chunk = {"id": key_of({"text": text}), "document_id": "d", "text": text, "start": 0, "end": len(text)}
        chunk |= {"sha256": "0" * 64, "ordinal": 0, "tokens": 5, "source": "alder.md", "title": ""}
        made = {"ingest": ("documents.jsonl", row), "chunk": ("chunks.jsonl", chunk)}
        file, value = made.get(name, ("result.json", key))
        return {file: json.dumps(value) + "\n"}

    def lines(self) -> list[tuple]:
        """What the log says of trainings."""
        nights = read_decisions(self.store, "town")
        return [(n.version, n.result) for n in nights if n.action == "retrain"]

    def events(self) -> list[tuple]:
        return [(e.version, e.action) for e in self.registry.read().history]


@pytest.fixture
def world_in(monkeypatch) -> Callable[[Path], World]:
    """Makes a world whose durable writes and smoke tests can kill."""
    worlds: list[World] = []

    def fsync(descriptor: int) -> None:
        if worlds[-1].near_the_end:
            worlds[-1].may_die()  # the write is lost, or at least not where it belongs
            worlds[-1].may_die()  # the write is there, what follows is lost

    def make(folder: Path) -> World:
        worlds.append(World(folder))
        return worlds[-1]

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(concluding, "smoke_test", lambda *given: worlds[-1].smoke_test(*given))
    monkeypatch.setattr(nights, "work", lambda run, calls, flow, direct: flow(worlds[-1].build))
    return make


def everywhere(world_in, tmp_path, prepare, force: bool = False):
    """(world, where) after a night was killed at the first, second, ... step and the next one was not."""
    for where in range(1, 200):
        world = world_in(tmp_path / str(where))
        prepare(world)
        if world.night(force=force, die_at=where) is not None:
            assert where > 15, "the night has more steps than that"
            return
        world.night()
        yield world, where
    raise AssertionError("the night never ended")


def is_settled(world: World, where: int) -> None:
    assert not open_file(world.store, "town").exists(), where
    assert world.night().action == "nothing", where


@pytest.mark.slow
def test_a_version_that_the_gate_wants_is_promoted_and_tested_wherever_the_night_died(world_in, tmp_path):
    for world, where in everywhere(world_in, tmp_path, lambda world: None):
        adapter = world.registry.read()
        assert (adapter.promoted, adapter.on_trial, world.tested[-1:]) == (1, False, [1]), where
        assert world.lines() == [(1, "promoted")], where
        assert world.events() == [(1, "registered"), (1, "promoted"), (1, "tested")], where
        is_settled(world, where)


@pytest.mark.slow
def test_a_training_that_a_person_asked_for_is_not_forgotten_though_nothing_has_changed(world_in, tmp_path):
    for world, where in everywhere(world_in, tmp_path, lambda world: world.night(), force=True):
        if world.lines() == [(1, "promoted")]:
            # killed before the choice was made: nothing of the night is left, as if it had never been started
            assert world.registry.read().promoted == 1, where
            assert where <= 6, where
            continue
        assert world.lines() == [(1, "promoted"), (2, "promoted")], where
        assert [v.state for v in world.registry.read().versions] == ["retired", "promoted"], where
        is_settled(world, where)


@pytest.mark.parametrize(
    ("verdict", "smoke_fails", "result", "state", "events"),
    [
        ("hold", False, "held", "candidate", ["registered"]),
        ("reject", False, "rejected", "retired", ["registered", "retired"]),
        ("promote", True, "rolled back", "retired", ["registered", "promoted", "rolled back"]),
    ],
)
@pytest.mark.slow
def test_what_is_not_kept_in_use_is_so_once_as_well(world_in, tmp_path, verdict, smoke_fails, result, state, events):
    def prepare(world):
        world.verdict, world.smoke_fails = verdict, smoke_fails

    for world, where in everywhere(world_in, tmp_path, prepare):
        assert world.lines() == [(1, result)], where
        adapter = world.registry.read()
        assert (adapter.promoted, adapter.versions[0].state) == (None, state), where
        assert [action for _, action in world.events()] == events, where
        is_settled(world, where)


def killed_after_registering(world_in, tmp_path) -> World:
    """A world whose night died between registering and promoting."""
    for where in range(1, 200):
        world = world_in(tmp_path / str(where))
        world.night(die_at=where)
        if world.events() == [(1, "registered")]:
            return world
    raise AssertionError("never")


@pytest.mark.slow
def test_the_decision_is_taken_up_before_the_one_that_a_changed_corpus_asks_for(world_in, tmp_path):
    world = killed_after_registering(world_in, tmp_path)
    world.edit("Alder has two stone mills.")
    world.night()
    assert world.lines() == [(1, "promoted"), (2, "promoted")]
    assert world.tested == [1, 2]


@pytest.mark.slow
def test_a_night_of_an_earlier_release_that_died_after_registering_is_taken_up_too(world_in, tmp_path):
    world = killed_after_registering(world_in, tmp_path)
    open_file(world.store, "town").unlink()
    world.night()
    assert (world.registry.read().promoted, world.tested) == (1, [1])
    assert world.lines() == [(1, "promoted")]
    world.night()
    assert world.lines() == [(1, "promoted")]


@pytest.mark.slow
def test_what_a_person_did_meanwhile_stands(world_in, tmp_path):
    world = killed_after_registering(world_in, tmp_path)
    world.registry.promote(1, reason="looked at by hand")
    world.night()
    assert world.lines() == [(1, "promoted")]
    assert world.tested == [], "a person's promotion is not on trial"
    assert world.registry.read().history[-1].reason == "looked at by hand"


@pytest.mark.slow
def test_a_candidate_is_not_promoted_over_a_version_it_was_never_compared_with(world_in, tmp_path):
    world = killed_after_registering(world_in, tmp_path)
    first = world.registry.read().versions[0]
    with world.store.publish("export", "f" * 32) as (out, other):
        (out / "result.json").write_text("by hand")
    world.registry.register({**first.stages, "export": other.link}, reason="built by raft run")
    world.registry.promote(2, reason="by hand")
    world.night()
    assert world.registry.read().promoted == 2
    assert world.lines()[0] == (1, "held")


@pytest.mark.slow
def test_a_candidate_whose_files_are_damaged_is_built_again(world_in, tmp_path):
    world = killed_after_registering(world_in, tmp_path)
    link = world.registry.read().versions[0].stages["export"]
    (world.store.folder("export", link.key) / "result.json").write_text("something else")
    assert world.night().result == "promoted"
    assert world.lines() == [(1, "promoted")]
    assert world.events() == [(1, "registered"), (1, "promoted"), (1, "tested")]
