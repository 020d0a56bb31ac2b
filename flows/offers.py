"""What can be served: of each configuration the finished search and the versions of its adapter, on one base."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.ready import NotBuilt, Stale, command_of, open_search, ready_of
from flows.run import Run
from flows.walk import Built
from raft_errors import BadInput
from tasks.adapters.feedback import FeedbackLog
from tasks.adapters.registry import FILE, Registry
from tasks.adapters.versions import Adapter
from tasks.config import RunConfig
from tasks.store import finished
from tasks.store.manifest import Link
from tasks.upkeep.forget import forgotten_file

if TYPE_CHECKING:
    from retrieval.search import Retriever
    from serving.domain import Domain, ServedVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A configuration that can be served.

    Attributes:
        built: the finished stages up to the index.
        find: the version of a number, or the one in use for None; `BadInput` where there is none.
    """

    run: Run
    built: Built
    stale: Stale | None
    find: Callable[[int | None], ServedVersion]

    def domain(self) -> Domain:
        """It as it is served."""
        from serving.domain import Domain

        retriever = _search(self)
        renewed = _renewal(self, retriever)
        name = self.run.config.name
        feedback = FeedbackLog(self.run.store.root, name)
        return Domain(name, retriever, self.find, index=_index(self.built).key, renewed=renewed, feedback=feedback)


def offer(config: RunConfig, command: Callable[[str], str]) -> Offer:
    """What there is of a configuration.

    Args:
        command: what makes the results up to a stage, for messages.

    Raises:
        BadInput: it has no finished index, or no adapter.
    """
    run = Run.of(config)
    run, built, stale = ready_of(run, "index", command("index"))
    find = versions(run, command("export"))
    find(None)
    return Offer(run, built, stale, find)


def offers(
    configs: Mapping[str, RunConfig], command: Callable[[str, str], str]
) -> tuple[dict[str, Offer], dict[str, BadInput]]:
    """What there is of each domain, and why there is nothing of the others.

    Args:
        command: what makes a domain's results up to a stage.

    Raises:
        BadInput: there is nothing of any, or two stand on different bases.
    """
    served: dict[str, Offer] = {}
    absent: dict[str, BadInput] = {}
    for name, config in configs.items():
        try:
            served[name] = offer(config, lambda stage, name=name: command(name, stage))  # type: ignore[misc]
        except BadInput as error:
            absent[name] = error
    if not served:
        reasons = "; ".join(f"{name}: {error.what}" for name, error in absent.items())
        first = next(iter(absent.values()))
        raise NotBuilt(f"No domain can be served ({reasons})", do=first.do)
    _check_one_base(served)
    return served, absent


def _check_one_base(served: Mapping[str, Offer]) -> None:
    bases = {name: one.run.models.plain("base") for name, one in served.items()}
    first, base = next(iter(bases.items()))
    others = [f"{name} ({files.name})" for name, files in bases.items() if files.digest != base.digest]
    if others:
        raise BadInput(
            f"One server has one base: {first} stands on {base.name}, and on another {', '.join(others)}",
            expected="domains whose base is the same, file by file",
            do=f"serve them apart, e.g. with --only {first}",
        )


def versions(run: Run, command: str) -> Callable[[int | None], ServedVersion]:
    """What finds a version of the run's adapter: by number, or the one in use; where none ever was, what the last run
    made. After a rollback to none there is none: what the last run made is mostly the one that was taken out."""
    from serving.domain import ServedVersion

    registry = Registry(run.store, run.config.name)
    read = _remembered(registry)
    last: ServedVersion | None = None
    with contextlib.suppress(BadInput):
        built = ready_of(run, "export", command).built
        records = built["records"].folder if "records" in built else None
        last = ServedVersion(run.config.name, built["export"].path("adapter"), records)

    def find(number: int | None) -> ServedVersion:
        adapter = read()
        version = adapter.in_use if number is None else adapter.version(number)
        if version is not None:
            folders = {name: run.store.folder(link.stage, link.key) for name, link in version.stages.items()}
            id_ = f"{adapter.name}@{version.number}"
            return ServedVersion(id_, folders["export"] / "adapter", folders.get("records"))
        if adapter.withdrawn:
            raise BadInput(f"No version of {adapter.name} is in use since it was rolled back", do="`raft promote` one")
        if last is None:
            raise BadInput(f"No version of {adapter.name} is promoted", do=f"{command}, or `raft promote`")
        return last

    return find


def _remembered(registry: Registry) -> Callable[[], Adapter]:
    """Reads a registry where its file has changed since it was read last, since every request asks."""
    last: tuple[object, Adapter] | None = None

    def read() -> Adapter:
        nonlocal last
        seen = _seen(registry.folder / FILE)
        if last is None or last[0] != seen:
            last = seen, registry.read()
        return last[1]

    return read


def _search(one: Offer) -> Retriever:
    """The retriever over its index, without the cache of queries, which would keep what one key asked and tell it to
    another by its speed."""
    return open_search(one.run, one.built, remembered=False)


def _renewal(one: Offer, retriever: Retriever) -> Callable[[], tuple[Retriever, str] | None]:
    """What opens the search anew after a run of the domain has finished or something was forgotten."""
    store, name = one.run.store, one.run.config.name
    files = (finished.file_of(store, name), forgotten_file(store))
    seen, link = [_seen(file) for file in files], _index(one.built)

    def renewed() -> tuple[Retriever, str] | None:
        nonlocal seen, link, retriever
        now = [_seen(file) for file in files]
        if now == seen:
            return None
        fresh = Offer(*ready_of(Run.of(one.run.config), "index", command_of("index", None)), one.find)
        if _index(fresh.built) != link:
            link, retriever = _index(fresh.built), _search(fresh)
        seen = now  # not before: what failed is tried again
        return retriever, link.key

    return renewed


def _index(built: Built) -> Link:
    return built.get("index_adapted", built["index"]).link


def _seen(file: Path) -> object:
    """What the kernel says about a file; every replacement changes it."""
    try:
        stat = file.stat()
    except OSError as error:
        return error.errno
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
