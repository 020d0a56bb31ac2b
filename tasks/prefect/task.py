"""A stage's request as a Prefect task: what its pages show of it. The work is the step's, and the store the truth.

With `tasks.prefect.artifacts` the only module below `flows` that imports Prefect; nothing imports it where every stage
is cached.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from tasks.build.events import Event, Finished, Reporter
from tasks.build.stage import Request
from tasks.prefect.artifacts import Pages
from tasks.store.manifest import Manifest

Entry = tuple[str, str]


class Handle:
    """An input or result of a task: Prefect knows it by its identity and does not look inside.

    Prefect draws an edge from each task whose result it meets in a parameter. It would search a manifest to its last
    field, and what two manifests share by chance would become an edge.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class TaskSteps:
    """A step that has each request done as a task of the flow run at hand.

    Args:
        step: makes, given a reporter, the step that does the work.
        reporter: who is told of it beside the pages.
    """

    def __init__(self, step: Callable[[Reporter], Callable[[Request], Manifest]], reporter: Reporter) -> None:
        self._pages = Pages(reporter)
        self._step = step(self._tell)
        self._handles: dict[Entry, Handle] = {}
        self._cached = False  # how the last request ended

    def __call__(self, request: Request) -> Manifest:
        inputs = {name: self._handle(value) for name, value in request.inputs.items()}
        result = self._task(request)(**inputs)
        handle = result.result() if isinstance(result, State) else result
        manifest: Manifest = handle.value
        self._handles[manifest.stage, manifest.key] = handle
        return manifest

    def _task(self, request: Request) -> Callable[..., Any]:
        def work(**inputs: Handle) -> Handle | State[Handle]:
            manifest = self._step(request)
            handle = Handle(manifest)
            return Completed(name="Cached", message=manifest.summary, data=handle) if self._cached else handle

        # Prefect names a task's parameters by its signature, and its key by the function's name.
        keyword = inspect.Parameter.KEYWORD_ONLY
        work.__signature__ = inspect.Signature([inspect.Parameter(n, keyword) for n in request.inputs])  # type: ignore[attr-defined]
        work.__name__ = work.__qualname__ = request.name
        return task(
            name=request.name,
            task_run_name=request.name,
            cache_policy=NO_CACHE,
            persist_result=False,
            log_prints=False,
        )(work)

    def _handle(self, value: Any) -> Handle:
        """The handle of a result that a task of this run gave, or a new one, which draws no edge."""
        known = self._handles.get((value.stage, value.key)) if isinstance(value, Manifest) else None
        return known or Handle(value)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._cached = event.cached
        self._pages(event)
