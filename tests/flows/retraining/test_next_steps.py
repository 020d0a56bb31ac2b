"""After a night `raft retrain` says what a person does next, in commands that exist."""

from pathlib import Path
from typing import get_args

import pytest
import typer.main

from flows.cli.app import command
from flows.cli.verbs.retrain import next_steps
from tasks.adapters.decisions import Result, RetrainDecision


def night(result: str) -> RetrainDecision:
    return RetrainDecision(
        at="2026-11-29T03:00:00+00:00", action="retrain", reason="forced", result=result, version=4,
        corpus="c", settings={},
    )  # fmt: skip


@pytest.mark.parametrize("result", get_args(Result))
def test_every_outcome_leads_on(result):
    verbs = typer.main.get_command(command()).commands
    steps = next_steps(night(result), Path("law.yaml"))
    assert steps
    for words, what in steps:
        _, verb, *rest = words.split()
        assert verb in verbs
        assert "law.yaml" in rest, "it is about this domain"
        assert what
        assert len(words) + len(what) < 100


def test_a_held_version_is_named():
    assert any("promote 4" in words for words, _ in next_steps(night("held"), None))
    assert not any("law.yaml" in words for words, _ in next_steps(night("held"), None))
