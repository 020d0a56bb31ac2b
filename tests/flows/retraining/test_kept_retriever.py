"""A night takes the retriever that was fitted for the version in use, until training starts from the base again."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tiny
from raft_project import Project

from data.records.splits import FrozenSplits
from flows.retraining import retriever
from flows.retraining.retriever import _held_out_now
from retrieval.adaptation import judgement


def test_a_document_that_was_learnt_from_and_is_held_out_now_is_a_leak():
    before = FrozenSplits(documents={"a": "train", "b": "test", "c": "train", "d": "validation"})
    same = FrozenSplits(documents={"a": "train", "b": "test", "c": "train", "new": "test"})
    assert _held_out_now(before, same) == 0
    assert _held_out_now(before, FrozenSplits(documents={"a": "test", "c": "validation", "b": "train"})) == 2


class Night:
    """What a night's keeper works on: version 2 in use, with the embedder that was fitted for version 1."""

    def __init__(self, monkeypatch) -> None:
        self.taken, self.said = [], []
        self.choices, self.choice = ("input questions changed",), {"embedder": {"digest": "d"}}
        self.sides = {1: {"a": "train"}, 2: {"a": "train"}}
        self.shares, self.built = (0.9, 0.9), None
        stages = {name: (name, 1) for name in ("adapt", "records", "index", "chunk")}
        versions = [SimpleNamespace(number=n, stages={**stages, "records": ("records", n)}) for n in (1, 2)]
        self.adapter = SimpleNamespace(in_use=versions[1], versions=versions)
        self.run = SimpleNamespace(
            store=SimpleNamespace(load=lambda *_: self.built),
            reporter=lambda event: self.said.append(event.text),
            config=SimpleNamespace(retrieval=None, retrain=SimpleNamespace(recall_drop=0.05)),
            models=None,
        )
        self.request = SimpleNamespace(stage=SimpleNamespace(name="adapt"), key=lambda: "k")
        kept = SimpleNamespace(
            differences=lambda *_: SimpleNamespace(choices=self.choices),
            accept=lambda request, manifest, store, why: self.taken.append(why),
            give_up=lambda request, store: self.taken.clear(),
        )
        records = lambda number: SimpleNamespace(path=lambda _: number)  # noqa: E731
        monkeypatch.setattr(retriever, "kept", kept)
        monkeypatch.setattr(retriever, "choice_of", lambda _: self.choice)
        monkeypatch.setattr(retriever, "any_hit_then_and_now", lambda *_: self.shares)
        monkeypatch.setattr(retriever, "manifests", lambda _, links: {n: records(link[1]) for n, link in links.items()})
        read = lambda number: FrozenSplits(documents=self.sides[number])  # noqa: E731
        monkeypatch.setattr(retriever.FrozenSplits, "read", staticmethod(read))
        self.tonight = {"records": records(2)}
        self.keeper = retriever.RetrieverKeeper(self.run, self.adapter, lambda request: "built")

    def keeps(self) -> bool:
        assert self.keeper(self.request) == "built", "the step finds what was taken"
        return self.keeper.keeps


@pytest.fixture
def tonight(monkeypatch) -> Night:
    return Night(monkeypatch)


def test_the_retriever_in_use_is_taken_where_only_what_it_was_fitted_on_changed(tonight):
    assert tonight.keeps()
    assert tonight.taken == [("fitted for version 2 on an earlier corpus",)]
    assert tonight.keeper.outdated(tonight.tonight) == ""
    tonight.keeper.give_up()
    assert tonight.taken == []
    assert not tonight.keeps(), "what was given up is fitted"


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": ("input questions changed", "adapt.epochs: 3 → 4")},
        {"choices": ("model embedder changed",)},
        {"choice": {"mode": "hybrid", "lexical_share": 0.7, "rerank": True}},  # no model was fitted
        {"built": "tonight's own"},
    ],
)
def test_it_is_not_taken(tonight, changes):
    vars(tonight).update(changes)
    assert not tonight.keeps()
    assert tonight.taken == []


def test_other_stages_are_built_as_ever(tonight):
    tonight.request.stage.name = "embed"
    assert not tonight.keeps()


def test_the_first_night_has_nothing_to_keep(tonight):
    tonight.adapter.in_use = None
    assert not tonight.keeps()


def test_it_is_given_up_where_it_finds_less_or_would_be_judged_on_what_it_learnt(tonight):
    assert tonight.keeps()
    tonight.shares = (0.9, 0.84)
    assert "fell from 0.900 to 0.840" in tonight.keeper.outdated(tonight.tonight)
    tonight.shares = None  # no test question is left
    assert tonight.keeper.outdated(tonight.tonight) == ""
    tonight.sides[2] = {"a": "test"}
    assert tonight.keeper.outdated(tonight.tonight) == "of what it learnt from 1 document is held out now"


@pytest.fixture
def town(tmp_path, domain, monkeypatch) -> Project:
    """A corpus of its own whose embedder is fitted, whatever that brings, and questions that a tiny model learns."""
    real = judgement.compare
    monkeypatch.setattr(judgement, "LEAST_QUESTIONS", 2)
    monkeypatch.setattr(judgement, "compare", lambda *a: judgement.Judgement(**{**real(*a).__dict__, "helps": True}))
    project = Project(tmp_path, domain)
    shutil.copytree(domain / "docs", tmp_path / "docs")
    rows = [
        {"question": question.format(name.title()), "answer": "the river", "document": f"{name}.md"}
        for name in tiny.TOWNS
        for question in ("What is {} known for?", "Who opens the gates of {}?", "How long is the walk around {}?")
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = project.values
    values |= {"name": "town", "corpus": [str(tmp_path / "docs")]}
    values["questions"] = {"file": str(tmp_path / "questions.jsonl")}
    values["adapt"] = {"embedder": True, "epochs": 1, "batch": 8, "rate": 0.01, "least_questions": 4}
    values["adapt"]["max_likeness"] = 1.0
    values["records"] |= {"p_oracle": 0.0, "absent": "answer"}
    values["train"] |= {"rank": 8, "alpha": 16.0, "epochs": 20, "learning_rate": 0.02}
    values["train"].pop("max_steps")
    values["evaluate"] |= {"max_new_tokens": 16, "general": 0}
    values["gate"] = {"least_questions": 2}
    values["retrain"] = {"min_change": 0.2, "recall_drop": 1.0}
    project.write()
    return project


def night(project, *arguments):
    """What `raft retrain` decided, with what it said."""
    process = project.raft("retrain", "--no-prefect", "--json", *arguments, check=False)
    return json.loads(process.stdout.splitlines()[-1]) | {"said": process.stderr}


def fitted(project) -> set[str]:
    """The results of the stage `adapt`."""
    return {path.name for path in (project.folder / ".raft" / "store" / "adapt").iterdir() if path.name[0] != "."}


@pytest.mark.heavy
def test_the_fitted_retriever_stays_until_training_starts_from_the_base(town):
    first = night(town)
    assert first.get("result") == "promoted", first
    (before,) = fitted(town)

    path = town.folder / "docs" / "elm.md"
    path.write_text(path.read_text().replace("1533", "1534"))
    small = night(town)
    assert small.get("action") == "refresh", small
    assert "the retriever in use is kept (fitted for version 1 on an earlier corpus)" in small["said"]
    assert fitted(town) == {before}, "nothing was fitted anew"
    planned = {row["stage"]: row for row in town.json("plan")["stages"]}
    assert planned["adapt"]["state"] == "kept"
    assert "taken by a night: fitted for version 1" in planned["adapt"]["why"]
    assert planned["index_adapted"]["state"] == "cached"
    found = town.json("search", "Who opens the gates of Elm?")
    assert found["stale"] is False
    assert found["hits"]

    path.write_text(path.read_text().replace("1534", "1535"))
    anew = night(town, "--force", "--set", "retrain.start=base")
    assert anew.get("action") == "retrain", anew
    assert "the retriever is fitted anew: training starts from the base model, as set (retrain.start)" in anew["said"]
    assert len(fitted(town)) == 2
    assert "kept" not in {row["state"] for row in town.json("plan")["stages"] if row["stage"] == "adapt"}
