"""The pipeline as a Prefect flow. Imported only when something has to run, after `flows.prefect.environment.settle`.

Embedded by default: no server to start, no account, no telemetry, its files beside the store. With `PREFECT_API_URL`
set, or after `raft server`, that server is used.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from prefect import flow
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from data.text.urls import value_without_secrets
from flows.prefect.environment import closed_to_others, quiet_console, start_embedded
from flows.prefect.errors import what_it_means
from flows.prefect.slot import training_slot
from flows.run import Run
from flows.step import Builder, Step
from tasks.build.events import Reporter, voice_of
from tasks.build.stage import Request
from tasks.prefect import link as prefect_link
from tasks.prefect.task import TaskSteps
from tasks.store.manifest import Manifest

T = TypeVar("T")


@dataclass(frozen=True)
class Work(Generic[T]):
    """What a flow run is to do.

    Attributes:
        result: how it ended, apart from whether Prefect's server could be told so.
        at_signal: what SIGTERM did before the flow began.
    """

    run: Run
    flow: Callable[[Step], T]
    step: Step
    result: Future[T]
    tighten: Callable[[], None]
    at_signal: Any


_work: ContextVar[Work[Any]] = ContextVar("work")


@flow(name="raft", flow_run_name="{adapter}", validate_parameters=False, log_prints=False)
def raft(adapter: str, config: dict[str, Any]) -> None:
    """One run of a domain's pipeline; its parameters are for those who look at it.

    Args:
        adapter: the name of what is made.
        config: the whole configuration, without secrets.
    """
    work = _work.get()
    work.tighten()
    quiet_console()  # again: Prefect sets its loggers up when a flow begins
    _handle(signal.SIGTERM, work.at_signal)  # ours, which ends the work once however often it is called; not Prefect's
    try:
        work.result.set_result(work.flow(work.step))
    except BaseException as error:
        work.result.set_exception(error)
        raise
    finally:
        if not prefect_link.still_there():
            prefect_link.lose(ConnectionError("it does not answer"), voice_of(work.run.reporter))
        if prefect_link.lost():
            work.tighten()


def run_flow(run: Run, flow: Callable[[Step], T], *, force: bool = False) -> T:
    """Calls `flow` with a step that has each stage built as a task: of the flow that is running (a scheduled one), else
    of a flow run of its own.

    Raises:
        RaftError: what a stage raised, or that Prefect's server cannot be reached.
        KeyboardInterrupt: the run was told to stop, also where Prefect then failed to report that to its server.
    """
    quiet_console()
    scheduled = FlowRunContext.get() is not None
    step = TaskSteps(functools.partial(_step, run, force=force, scheduled=scheduled), run.reporter)
    if scheduled:
        return flow(step)
    # The heartbeat thread costs every short flow a second at its end; only served runs need it.
    settings = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, **closed_to_others()}
    with temporary_settings(settings), prefect_link.bounded() as tighten:
        work = Work(run, flow, step, Future(), tighten, signal.getsignal(signal.SIGTERM))
        token = _work.set(work)
        try:
            start_embedded()
            raft(run.config.name, value_without_secrets(run.config.model_dump(mode="json")))
        except Exception as error:
            if was_stopped(error):
                raise KeyboardInterrupt from error
            if not work.result.done():  # it never began
                raise what_it_means(error, os.environ.get("PREFECT_API_URL")) or error from error
            failure = work.result.exception()
            if error is failure:
                raise
            prefect_link.lose(error, voice_of(run.reporter))  # the work had ended, and telling so failed
            if failure is not None:
                raise failure from error
        finally:
            _work.reset(token)
    return work.result.result()


def _step(run: Run, reporter: Reporter, *, force: bool, scheduled: bool) -> Step:
    """What builds, reporting to the pages too."""
    build = Builder(replace(run, reporter=reporter), force)

    def alone(request: Request) -> Manifest:
        with training_slot(voice_of(reporter)) if request.stage.alone else contextlib.nullcontext():
            return build(request)

    return alone if scheduled else build


def _handle(number: signal.Signals, handler: Any) -> None:
    if callable(handler):
        with contextlib.suppress(ValueError):  # only the main thread may
            signal.signal(number, handler)


def was_stopped(error: BaseException) -> bool:
    """Whether a signal to stop stands at the root of the error.

    Prefect reports to its server that it was stopped; where the server is gone, that failure hides the signal.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        if (one := queue.pop()) is None or id(one) in seen:
            continue
        if isinstance(one, (KeyboardInterrupt, TerminationSignal)):
            return True
        seen.add(id(one))
        queue += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return False
