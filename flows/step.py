"""What is done for one request of a run: taken where a person keeps a result, else looked for and built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.run import Run
from tasks.build import kept, stage
from tasks.build.events import Finished, Said
from tasks.build.stage import Request
from tasks.store.manifest import Manifest

COSTLY_SECONDS = 60.0  # what takes longer is not made anew for other code alone without a word of --keep
Step = Callable[[Request], Manifest]


@dataclass(frozen=True)
class Builder:
    """A step that builds: it looks, waits, fetches, builds, reports and tries again (`tasks.build.stage.run`), but for
    results that a person keeps."""

    run: Run
    force: bool = False

    def __call__(self, request: Request) -> Manifest:
        run, name = self.run, request.stage.name
        if self.force and name not in run.keep:
            return stage.run(request, run.store, run.reporter, force=True)
        if manifest := take_kept(request, run):
            run.reporter(Finished(manifest, cached=True))
            return manifest
        if not self.force:
            _tell_of_keep(request, run)
        return stage.run(request, run.store, run.reporter, force=self.force)


def _tell_of_keep(request: Request, run: Run) -> None:
    """Before something costly is built for other code alone."""
    name = request.stage.name
    if run.store.read(name, request.key()) is not None:
        return
    earlier = kept.fitting(request, run.store)
    if earlier is not None and earlier.seconds >= COSTLY_SECONDS:
        words = f"{request.name}: only the code has changed since the result of {kept.day(earlier)}, which took "
        words += f"{earlier.seconds / 60:.0f} minutes; --keep {name} would take it as it is"
        run.reporter(Said(words))


def take_kept(request: Request, run: Run) -> Manifest | None:
    """The result that a person has taken for this one although other code made it, where there is one."""
    manifest = kept.take(request, run.store, run.keep)
    if manifest is not None:
        words = f"the result of {kept.day(manifest)} is kept ({'; '.join(manifest._kept)})"
        run.reporter(Said(f"{request.name}: {words}"))
    return manifest
