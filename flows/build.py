"""Builds what is missing. With Prefect each stage is a task of a flow run; what is done for a stage is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from flows.calls import Call, calls_to
from flows.finished import remember
from flows.run import Run, at_work
from flows.step import Builder, Step
from flows.walk import Built, published, require_wanted, walk
from tasks.build import kept
from tasks.inputs.models import compile_cache

T = TypeVar("T")


def build(run: Run, until: str, *, direct: bool = False, force: bool = False) -> Built:
    """The results of the pipeline up to `until`, from the store or built now.

    Args:
        direct: without Prefect.
        force: build each stage anew.
    """
    require_wanted(run, until)
    built = work(run, calls_to(until), lambda step: walk(run, step, until), direct=direct, force=force)
    assert built is not None  # a builder gives a result or raises
    remember(run, built)
    return built


def work(run: Run, calls: Sequence[Call], flow: Callable[[Step], T], *, direct: bool = False, force: bool = False) -> T:
    """Calls `flow` with what builds a request, directly or as a task of a Prefect flow run; returns what it returns.

    Args:
        calls: what will be needed at most, to be looked at before any of it is built.
    """
    from flows.preflight import check

    kept.require_finished(run.keep, run.store)
    with at_work(run):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compile_cache()))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        run.store.collect_leftovers()
        judged, written = run.config.evaluate.judge == "openai", bool(run.config.train.writers)
        asking = ["questions", *(["train"] if written else []), *(["evaluate"] if judged else [])]
        stages = {call.stage.name for call in calls}
        check(run, calls, finished=[name for name in asking if name in stages and published(run, name) is not None])
        if direct:
            return flow(Builder(run, force))
        from flows.prefect.environment import settle

        settle(run.store)
        from flows.prefect.flow import run_flow

        return run_flow(run, flow, force=force)
