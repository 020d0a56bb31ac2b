"""The last finished runs of a domain: written down when one ends, looked up by those who only use results."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.text.urls import without_secrets
from flows.calls import CALLS, Call, calls_of, calls_to
from flows.pipeline import ONLY_ADAPTED, OPTIONAL, pipeline
from flows.run import Run
from flows.walk import Built
from raft_errors import RaftError
from tasks.adapters.registry import Registry
from tasks.build.events import Said
from tasks.ingest import corpus_id
from tasks.store import finished
from tasks.store.manifest import Link, Manifest

PLACES = {
    "adapter": ("export", "adapter"),
    "merged": ("export", "merged"),
    "records": ("records", ""),
    "report.html": ("evaluate", "report.html"),
}
"""What people want from a run: by the name under which it is always found, whose result it is and which file of it."""


def places_of(built: Built) -> dict[str, Path]:
    """What people want from these results, as far as they are there."""
    return {label: built[call].path(file) for label, (call, file) in PLACES.items() if call in built}


def remember(run: Run, built: Built, *, latest: bool = True) -> None:
    """Writes down that these results belong together, and points the stable paths to them.

    A store that cannot be written to still answers, so its failure is no error.

    Args:
        latest: whether `<store>/latest` leads to them too.
    """
    try:
        words = finished.note(run.store, run.config.name, _sources(run), built, places_of(built), latest=latest)
    except (OSError, RaftError):
        return
    if words:
        run.reporter(Said(words))


def stable(run: Run, built: Built, label: str) -> Path:
    """The path to one of `PLACES` that stays the same over runs, where it leads to these results; else their own."""
    place = places_of(built)[label]
    for folder in (finished.LATEST, f"{finished.FOLDER}/{run.config.name}"):
        path = run.store.root / folder / label
        with contextlib.suppress(OSError):
            if path.resolve(strict=True) == place.resolve(strict=True):
                return path
    return place


def last_finished(run: Run, until: str) -> Built | None:
    """The results up to a call of the newest run of the domain that reached it and is whole in the store.

    A domain is known by its name and a source that it still has, so that two configurations which left the name at its
    default do not answer for each other.
    """
    names = [call.name for call in calls_to(until)]
    sources = {finished.without_root(source, run.store) for source in _sources(run)}
    runs = finished.finished_runs(run.store, run.config.name)
    for one in runs:
        if until in one.results and sources & {*one.sources}:
            built = _load(run, {name: one.results[name] for name in names if name in one.results})
            if built is not None:
                return built
    ours = not runs or any(sources & {*one.sources} for one in runs)
    return _of_last_ingest(run, until) or (_of_registry(run, until) if ours else None)


def in_use(run: Run, index: Built) -> Built | None:
    """An index with the adapter in use: what a night trained from an earlier version, no plain run has."""
    version = Registry(run.store, run.config.name).read().in_use
    if version is None:
        return None
    export = _load(run, {"export": version.stages["export"]})
    return {**index, **export} if export else None


def _sources(run: Run) -> tuple[str, ...]:
    return tuple(without_secrets(source) for source in run.config.corpus)


def _load(run: Run, links: Mapping[str, Link]) -> Built | None:
    """The results, if every one of them is whole and the one that was meant."""
    built: Built = {}
    for name, link in links.items():
        manifest = run.store.load(link.stage, link.key)
        if manifest is None or manifest.digest != link.digest:
            return None
        built[name] = manifest
    return built


def _of_last_ingest(run: Run, until: str) -> Built | None:
    """The same where no run was written down (by an earlier release): the newest result that was made from the last
    ingest of this corpus, which the store has always known."""
    ingest = run.store.sources.read(corpus_id(run.config.corpus, run.config.ingest)).ingest
    stages = {call.name: call.stage.name for call in CALLS}
    for manifest in run.store.manifests(stages[until]) if ingest else []:
        links = _behind(run, until, manifest)
        if "ingest" in links and links["ingest"].key == ingest:
            built = _load(run, {call.name: links[call.name] for call in calls_to(until) if call.name in links})
            if built is not None:
                return built
    return None


def _of_registry(run: Run, until: str) -> Built | None:
    """The same from the registry, which knows domains by their name: of the version in use, else of the newest that
    waits."""
    adapter = Registry(run.store, run.config.name).read()
    waiting = [version for version in reversed(adapter.versions) if version.state == "candidate"]
    for version in [adapter.in_use, *waiting]:
        there = version.stages.keys() if version is not None else set()
        names = [call.name for call in calls_to(until) if call.name in there or call.name not in OPTIONAL]
        if version is not None and there >= {*names}:
            built = _load(run, {name: version.stages[name] for name in names})
            if built is not None:
                return built
    return None


def _behind(run: Run, call: str, manifest: Manifest) -> dict[str, Link]:
    """The links of a result and of all it was built from, by the names of their calls."""
    links, fitted = _along(run, call, manifest, calls_of(pipeline, adapted=call in ONLY_ADAPTED))
    return _along(run, call, manifest, CALLS)[0] if fitted else links


def _along(run: Run, call: str, manifest: Manifest, lines_of_flow: Sequence[Call]) -> tuple[dict[str, Link], bool]:
    """The same by these lines, and whether something was made with a retriever that was fitted."""
    lines = {line.name: line for line in lines_of_flow}
    links, fitted = {call: manifest.link}, False
    queue = [(call, manifest)]
    while queue:
        name, here = queue.pop(0)
        fitted = fitted or "adapt" in here.lineage
        for role, parent in lines[name].inputs.items():
            link = here.lineage.get(role)
            if link is not None and parent not in links:
                links[parent] = link
                queue += [(parent, m) for m in [run.store.read(link.stage, link.key)] if m]
    return links, fitted
