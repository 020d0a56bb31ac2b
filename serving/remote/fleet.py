"""The adapters on the other server: loaded under a name of their version, listed, probed, and unloaded with the last
request that uses them.

Each has a task of its own that sees to what is wanted of it, and nobody else waits for that server: whoever asks is
told that an adapter is ready, is being loaded, or why it failed. A failure is tried again after a while, which grows
with every failure. An unload that hangs holds nobody up. All of it runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jora_engine.generation.adapter_layout import PreparedAdapter
from serving.domain import NotReady
from serving.remote.connection import Remote, RemoteFault, Sample

log = logging.getLogger("raft.serving")

State = Literal["loading", "ready", "failed", "leaving"]


@dataclass(frozen=True)
class Patience:
    """How long what may take, in seconds.

    Attributes:
        load, unload: an answer to that request.
        listed: until a name is in the list after its load, or after a load that gave no answer.
        first, longest: pause after a first failure, which doubles with every further one; and its bound.
        look: between two looks at the list.
    """

    load: float = 120.0
    unload: float = 30.0
    listed: float = 60.0
    first: float = 5.0
    longest: float = 300.0
    look: float = 0.25

    def pause(self, failures: int) -> float:
        """After so many failures in a row."""
        return min(self.first * 2 ** min(failures - 1, 30), self.longest)


@dataclass(eq=False)
class Guest:
    """An adapter on its way in, there, or on its way out.

    Attributes:
        name: there.
        folder: as that server sees it.
        reason: why it failed, or does not leave; in words for everybody.
        uses: requests under way with it.
        unwanted: whether it goes with the last of them.
        sent: whether a load was sent, so that it may be there.
        news: something is wanted of it; settled: it is ready or has failed.
    """

    name: str
    folder: str
    adapter: PreparedAdapter
    state: State = "loading"
    reason: str = ""
    failures: int = 0
    uses: int = 0
    unwanted: bool = False
    sent: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None


class Fleet:
    """The adapters on one server.

    Args:
        prompt: of probes: token ids or a text, as the server takes it; prompt_tokens: its length.
    """

    def __init__(
        self, remote: Remote, prompt: list[int] | str, prompt_tokens: int, patience: Patience | None = None
    ) -> None:
        self.remote, self.patience = remote, patience or Patience()
        self._prompt, self._prompt_tokens = prompt, prompt_tokens
        self._guests: dict[str, Guest] = {}
        self._base: list[Sample] = []

    def standing(self) -> dict[str, dict[str, str]]:
        """Of each adapter its state, and the reason where there is one; may be called from any thread."""
        return {
            guest.name: {"state": guest.state} | ({"reason": guest.reason} if guest.reason else {})
            for guest in list(self._guests.values())
        }

    def guest(self, name: str, folder: str, adapter: PreparedAdapter) -> Guest:
        """The adapter of that name, known from now on and wanted."""
        guest = self._guests.setdefault(name, Guest(name, folder, adapter))
        guest.unwanted = False
        guest.news.set()
        if guest.work is None or guest.work.done():
            guest.work = asyncio.get_running_loop().create_task(self._see_to(guest))
        return guest

    def require(self, guest: Guest) -> None:
        """Raises `NotReady` while an adapter is being loaded, or where that has failed."""
        if guest.state == "failed":
            raise NotReady(
                f"the server that generates does not take {guest.name} in: {guest.reason}", do="see the server's log"
            )
        if guest.state != "ready":
            raise NotReady(f"the server that generates is loading {guest.name}", do="wait a moment")

    async def ready(self, guest: Guest) -> None:
        """Waits until an adapter is ready; raises `NotReady` where it has failed."""
        await guest.settled.wait()
        self.require(guest)

    def release(self, guest: Guest) -> None:
        """One request less uses it."""
        guest.uses -= 1
        guest.news.set()

    def leave(self, name: str) -> None:
        """Lets an adapter go with the last request that uses it."""
        if guest := self._guests.get(name):
            guest.unwanted = True
            guest.news.set()

    def lost(self, guest: Guest) -> None:
        """The server does not know an adapter that was ready: it was started anew, say."""
        if guest.state == "ready":
            log.warning("%s has lost %s; it is loaded again", self.remote.where, guest.name)
            guest.state = "loading"
            guest.settled.clear()
            guest.news.set()

    async def close(self) -> None:
        """Ends what is under way; adapters stay where they are, for the next start."""
        works = [guest.work for guest in self._guests.values() if guest.work]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def _see_to(self, guest: Guest) -> None:
        """Brings one adapter to where it is wanted, until it is gone."""
        while True:
            guest.news.clear()
            if guest.unwanted and not guest.uses:
                if not guest.sent or await self._thrown_out(guest):
                    del self._guests[guest.name]
                    return
            elif guest.state != "ready":
                await self._load(guest)
            else:
                await guest.news.wait()

    async def _load(self, guest: Guest) -> None:
        guest.state = "loading"
        guest.settled.clear()
        try:
            await self._take_in(guest)
            try:
                await self._probe(guest)
            except Exception:
                await self._take_back(guest)
                raise
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits is told, and it is tried again
            fault = _fault(error)
            guest.failures += 1
            pause = self.patience.pause(guest.failures)
            guest.state, guest.reason = "failed", fault.reason
            log.warning("%s does not take %s in: %s; next try in %g s", self.remote.where, guest.name, fault, pause)
            guest.settled.set()
            await self._pause(guest, pause)
        else:
            guest.state, guest.reason, guest.failures = "ready", "", 0
            log.info("%s serves %s", self.remote.where, guest.name)
            guest.settled.set()

    async def _take_in(self, guest: Guest) -> None:
        """Loaded and listed."""
        dialect = self.remote.dialect
        if not dialect.load:
            return
        if dialect.listed and await self._listed(guest):  # an earlier try that gave no answer, or an earlier start
            guest.sent = True
            return
        guest.sent = True
        try:
            await self.remote.load(guest.name, guest.folder, self.patience.load)
        except RemoteFault as fault:
            if not dialect.listed or not fault.timed_out:
                raise
        until = time.monotonic() + self.patience.listed
        while dialect.listed and not await self._listed(guest):
            if time.monotonic() > until:
                raise RemoteFault(f"it is not listed {self.patience.listed:g} s after its load")
            await asyncio.sleep(self.patience.look)

    async def _listed(self, guest: Guest) -> bool:
        card = next((card for card in await self.remote.cards() if card["id"] == guest.name), None)
        if card is not None and card.get("root") not in (None, guest.folder):
            guest.sent = False  # it is not ours to throw out
            raise RemoteFault("another adapter has its name there")
        return card is not None

    async def _probe(self, guest: Guest) -> None:
        """Whether the server answers through the adapter, and differs from the base by more than the base from itself:
        in bfloat16 the same prompt has other last digits beside other requests."""
        base = await self.remote.base()
        if not self._base:
            self._base = [await self.remote.sample(base, self._prompt) for _ in range(2)]
        own, wanted = await self.remote.sample(self.model(base, guest), self._prompt), self._prompt_tokens
        if own.prompt_tokens not in (None, wanted):
            raise RemoteFault(f"it counts {own.prompt_tokens} tokens in a prompt of {wanted}: another base")
        first, second = self._base
        if guest.adapter.adds and own.logprobs and first.distance(own) <= first.distance(second):
            raise RemoteFault("it changes nothing there")

    async def _take_back(self, guest: Guest) -> None:
        """Unloads what did not pass, if that can be, so that the next try begins anew."""
        with contextlib.suppress(Exception):
            if self.remote.dialect.unload:
                await self.remote.unload(guest.name, self.patience.unload)
                guest.sent = False

    def model(self, base: str, guest: Guest) -> str:
        """What `model` must be for an adapter."""
        return self.remote.dialect.model(base, guest.folder if self.remote.dialect.by_folder else guest.name)

    async def _thrown_out(self, guest: Guest) -> bool:
        """Tries to unload an adapter; False where that failed, after a pause."""
        guest.state = "leaving"
        guest.settled.clear()
        try:
            if self.remote.dialect.unload:
                await self.remote.unload(guest.name, self.patience.unload)
        except Exception as error:  # noqa: BLE001  as above
            fault = _fault(error)
            guest.failures += 1
            guest.reason, pause = f"it does not leave: {fault.reason}", self.patience.pause(guest.failures)
            log.warning("%s does not let %s go: %s; next try in %g s", self.remote.where, guest.name, fault, pause)
            await self._pause(guest, pause)
            return False
        guest.failures, guest.sent = 0, False
        return guest.unwanted  # it may be wanted again by now, and is then loaded again

    async def _pause(self, guest: Guest, seconds: float) -> None:
        """Until so many seconds are over, or something else is wanted than before."""
        until, unwanted = time.monotonic() + seconds, guest.unwanted
        while guest.unwanted == unwanted and (rest := until - time.monotonic()) > 0:
            guest.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(guest.news.wait(), rest)


def _fault(error: Exception) -> RemoteFault:
    """What went wrong, as a fault of the server; what is none of those that are known goes into the log whole."""
    if isinstance(error, RemoteFault):
        return error
    log.error("what the server that generates answers cannot be used", exc_info=error)
    return RemoteFault("its answer cannot be used", type(error).__name__)


def name_there(key: str, folder: Path, digest: str) -> str:
    """The name of a version on the other server, for its name here: `faq@7` is `faq-v7`. What has no number is named by
    its digest: one name must never mean two things, since prefix caches go by it."""
    id_ = key.removesuffix(f" {folder}")
    name, at, number = id_.partition("@")
    return f"{name}-v{number}" if at else f"{name}-{digest[:12]}"
