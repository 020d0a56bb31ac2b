"""Which version of its adapter a domain's name means now, and which versions the engine holds.

The promoted version comes into use once it was read whole and has changed what the base says; until then, and where it
cannot be used, the one before serves on. A version that is in use no more leaves with its last row: requests hold what
they were given, so nothing waits for them here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Protocol

from jora_engine.generation.adapter_memory import AdapterMemory, PreparedAdapter
from raft_errors import BadInput, RaftError
from serving.domain import Domain, NotReady, ServedVersion

log = logging.getLogger("raft.serving")

KEPT_SECONDS = 60.0  # that a version asked for by its number stays after it was asked for last


class Loop(Protocol):
    """What of the engine's thread is needed."""

    def probe(self, name: str) -> None: ...

    def unload(self, name: str) -> None: ...


class BrokenAdapter(BadInput):
    """A version that cannot be used."""


@dataclass(frozen=True)
class Refusal:
    """That what is promoted is not in use.

    Attributes:
        version: what is promoted; None where nothing is, or that cannot be known.
        passing: whether it may be usable later, as it is.
    """

    version: ServedVersion | None
    error: RaftError
    passing: bool = False


def key_of(version: ServedVersion) -> str:
    """A version's name in the engine: that of its folder too, since what the last run made has one id every time."""
    return f"{version.id} {version.folder}"


class Versions:
    """The versions of several domains, in an engine's memory of adapters. Safe to use from several threads.

    Attributes:
        refusals: by domain, why what is promoted is not in use.
        switches: how often another version came into use.
        kept_seconds: that a version stays after it was asked for by its number.
    """

    def __init__(self, memory: AdapterMemory) -> None:
        self.refusals: dict[str, Refusal] = {}
        self.switches = 0
        self.kept_seconds = KEPT_SECONDS
        self._memory = memory
        self._unload: Callable[[str], object] = memory.remove
        self._probe: Callable[[str], None] = lambda name: None
        self._lock = threading.RLock()  # of load and unload
        self._looking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by domain
        self._in_use: dict[str, ServedVersion] = {}
        self._coming: set[str] = set()  # keys that are being read and probed
        self._loaded: set[str] = set()  # keys
        self._numbered: dict[str, float] = {}  # key -> when it was last asked for by its number

    def connect(self, loop: Loop) -> None:
        """From now on a version is probed before it comes into use, and what it held is freed when it leaves."""
        self._probe, self._unload = loop.probe, loop.unload

    def in_use(self, domain: str) -> ServedVersion | None:
        """The version that a domain's name means, without a look at what is promoted."""
        with self._lock:
            return self._in_use.get(domain)

    def resolve(self, domain: Domain, number: int | None) -> ServedVersion:
        """The version of a number, or the one in use for None.

        Raises:
            BadInput: there is none.
            BrokenAdapter: the one in use cannot be used, and there was none before it.
        """
        if number is None:
            if (version := self.in_use(domain.name)) is None:
                self.follow(domain)
                version = self.in_use(domain.name)
            if version is None:
                refusal = self.refusals.get(domain.name)
                raise refusal.error if refusal else BadInput(f"no version of {domain.name} is in use")
            return version
        version = domain.find(number)
        with self._lock:
            if version == (current := self._in_use.get(domain.name)):
                return current
            self._numbered[key_of(version)] = time.monotonic()
        return version

    def prepared(self, version: ServedVersion) -> PreparedAdapter:
        """The version's adapter, read and checked whole, with its contract.

        Raises:
            BrokenAdapter: it cannot be used.
        """
        key = key_of(version)
        while True:
            with self._lock:
                if not self._memory.registered(key):
                    self._memory.register(key, version.folder)
                self._loaded.add(key)
            try:
                adapter = self._memory.get(key)
                version.template  # noqa: B018  reads the contract
                return adapter
            except (RaftError, OSError, KeyError, ValueError) as error:
                if not self._memory.registered(key):  # it left while it was read
                    continue
                told = error if isinstance(error, RaftError) else RaftError(f"raft.json cannot be read ({error})")
                raise BrokenAdapter(told.what, expected=told.expected, do=told.do) from error

    def behind(self, domain: Domain) -> bool:
        """Whether something else is promoted than what is in use, and was not refused before; a quick look."""
        try:
            promoted = domain.find(None)
        except RaftError:
            promoted = None
        refusal = self.refusals.get(domain.name)
        if refusal and refusal.passing:
            return True
        return promoted != (refusal.version if refusal else self.in_use(domain.name))

    def follow(self, domain: Domain) -> None:
        """Brings what is promoted into use, if it can be used. Reads from disk and waits for the engine."""
        with self._lock:
            looking = self._looking[domain.name]
        with looking:
            try:
                promoted = domain.find(None)
            except BadInput as error:
                self._take_out(domain.name, error)
            except RaftError as error:  # the registry cannot be read, which says nothing about the version in use
                self._refuse(domain.name, None, error)
            else:
                self._bring_in(domain.name, promoted)
        self.tidy()

    def check(self, probe: Callable[[str], None], names: Iterable[str]) -> dict[str, str]:
        """Probes the versions in use, for an engine that serves nobody yet; what fails is taken out.

        Returns:
            By domain why its adapter cannot be used.
        """
        broken = {}
        for name in names:
            if version := self.in_use(name):
                try:
                    probe(key_of(version))
                except BadInput as error:
                    broken[name] = str(error)
                    self._take_out(name, error, version)
        return broken

    def tidy(self) -> None:
        """Unloads what no name means any more and nobody has asked for by its number of late."""
        with self._lock:
            meant = {*map(key_of, self._in_use.values()), *self._coming}
            meant |= {key_of(refusal.version) for refusal in self.refusals.values() if refusal.version}
            oldest = time.monotonic() - self.kept_seconds
            self._numbered = {key: at for key, at in self._numbered.items() if at > oldest}
            for key in self._loaded - meant - self._numbered.keys():
                self._loaded.discard(key)
                self._unload(key)

    def _bring_in(self, name: str, promoted: ServedVersion) -> None:
        if promoted == self.in_use(name):
            self.refusals.pop(name, None)
            return
        refusal = self.refusals.get(name)
        if refusal and refusal.version == promoted and not refusal.passing:
            return
        key = key_of(promoted)
        with self._lock:
            self._coming.add(key)
        try:
            self.prepared(promoted)
            self._probe(key)
        except CancelledError:  # the server ends
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the version before serves on
            told = error if isinstance(error, RaftError) else RaftError(f"{type(error).__name__}: {error}")
            self._refuse(name, promoted, told)
        else:
            with self._lock:
                self._in_use[name] = promoted
                self.refusals.pop(name, None)
                self.switches += 1
            log.info("%s is in use", promoted.id)
        finally:
            with self._lock:
                self._coming.discard(key)

    def _refuse(self, name: str, version: ServedVersion | None, error: RaftError) -> None:
        passing = isinstance(error, NotReady)
        refusal = Refusal(version, error if passing else _broken(error), passing)
        with self._lock:
            known, self.refusals[name] = self.refusals.get(name), refusal
            current = self._in_use.get(name)
        if passing:
            log.debug("%s is not in use yet: %s", version.id if version else name, error)
        elif known is None or known.version != version:
            on = f"{current.id} serves on" if current else "nothing serves in its place"
            log.warning("the adapter %s cannot be used: %s; %s", version.id if version else name, error, on)

    def _take_out(self, name: str, error: BadInput, version: ServedVersion | None = None) -> None:
        passing = isinstance(error, NotReady)
        told = _broken(error) if version and not passing else error
        with self._lock:
            self._in_use.pop(name, None)
            self.refusals[name] = Refusal(version, told, passing)


def _broken(error: RaftError) -> BrokenAdapter:
    return BrokenAdapter(error.what, expected=error.expected, do=error.do)
