"""Which adapter a question goes to where the request leaves it to the server: `auto` takes the nearest domain, `mix`
adds up the nearest ones.

One embedder is used for all domains, whatever each is searched with, or their cosines could not be compared. A domain's
profile is made of the questions that its version was trained on and validated with, and kept by their digest. A
question that no domain's threshold lets in goes to the base.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.nouns import ItemCache, MemoryCache, Record, read_jsonl
from raft_errors import RaftError
from retrieval.routing import MISS, Profile, make_profile, quantised
from serving.domain import ServedVersion

log = logging.getLogger("raft.serving")

MOST = 128
"""Questions of a side that a profile is made of, evenly spread; LoraRetriever takes 20."""

WEIGHT_STEPS = 8
"""Weights of a mixture are multiples of one eighth, so that alike questions share one."""


class Embedding(Protocol):
    """What is needed of an embedder."""

    @property
    def info(self) -> Any: ...

    def encode(self, texts: Sequence[str], *, cache: ItemCache | None = None, kind: Any = "passage") -> np.ndarray: ...


@dataclass(frozen=True)
class Route:
    """A domain that a question may go to.

    Attributes:
        score: how near it is to the domain's questions (`Profile.scores`); `threshold` is what it must reach.
    """

    name: str
    version: ServedVersion
    score: float
    threshold: float

    @property
    def fits(self) -> bool:
        return self.score >= self.threshold


class Router:
    """Profiles of the versions in use, and the choice among them. Safe to use from several threads.

    Args:
        embedder: of all questions, those of the profiles included.
        cache: keeps profiles between starts.
        miss: share of a domain's held-out questions that may be taken for nobody's.
        most: adapters that `mix` adds up at most; below 2 it is not offered.
    """

    def __init__(
        self, embedder: Embedding, cache: ItemCache | None = None, *, miss: float = MISS, most: int = 0
    ) -> None:
        self.most = most
        self._embedder, self._miss = embedder, miss
        self._cache: ItemCache = cache if cache is not None else MemoryCache()
        self._profiles: dict[Path, Profile | None] = {}  # by the records they were made of
        self._latest: dict[str, Path] = {}  # by domain
        self._under_way: set[Path] = set()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The models that it stands for."""
        return ["auto", "mix"] if self.most > 1 else ["auto"]

    def profile(self, name: str, version: ServedVersion) -> Profile | None:
        """The profile of a domain's version; None where its records are not known or hold nothing.

        The first one of a domain is made while the caller waits. That of a later version is made meanwhile, and the
        earlier one goes on: nobody waits for a promotion.
        """
        records = version.records
        if records is None:
            return None
        with self._lock:
            if records in self._profiles:
                self._latest[name] = records
                return self._profiles[records]
            earlier = self._latest.get(name)
            if earlier is None:
                self._profiles[records] = self._made(version)
                self._latest[name] = records
                return self._profiles[records]
            if records not in self._under_way:
                self._under_way.add(records)
                threading.Thread(target=self._make, args=(version,), name="raft-profile", daemon=True).start()
            return self._profiles[earlier]

    def _make(self, version: ServedVersion) -> None:
        assert version.records is not None
        try:
            profile = self._made(version)
            with self._lock:
                self._profiles[version.records] = profile
        except Exception:
            log.exception("the profile of %s cannot be made; auto goes by the version before", version.id)
        # it stays under way after a failure, which would come again

    def routes(self, question: str, versions: Mapping[str, ServedVersion]) -> list[Route]:
        """The domains that have a profile, those that the question fits first, the nearest one at the front."""
        profiles = {name: self.profile(name, version) for name, version in versions.items()}
        vector = self._embedder.encode([question], kind="query")
        routes = [
            Route(name, versions[name], float(profile.scores(vector)[0]), profile.threshold)
            for name, profile in profiles.items()
            if profile is not None
        ]
        return sorted(routes, key=lambda route: (not route.fits, -route.score, route.name))

    def weights(self, routes: Sequence[Route]) -> dict[str, float]:
        """Of the nearest domains that a question fits, how much of each adapter is added; by similarity, in steps.
        Empty where it fits none."""
        chosen = [route for route in routes if route.fits][: max(self.most, 1)]
        if not chosen:
            return {}
        shares = quantised([max(route.score, 0.0) + 1e-9 for route in chosen], WEIGHT_STEPS)
        return {route.name: share for route, share in zip(chosen, shares, strict=True) if share}

    def _made(self, version: ServedVersion) -> Profile | None:
        assert version.records is not None
        try:
            sides = [questions_of(version.records / f"{side}.jsonl") for side in ("train", "validation")]
        except (RaftError, OSError, LookupError) as error:
            log.warning("auto never chooses %s: the questions it was trained on cannot be read (%s)", version.id, error)
            return None
        training, held_out = sides
        if not training:
            log.warning("auto never chooses %s: its records hold no question", version.id)
            return None
        info, identity = self._embedder.info, hashlib.sha256()
        for part in ("route-2", info.digest, info.precision, str(self._miss), *training, "", *held_out):
            identity.update(f"{len(part)} {part}".encode("utf-8", "surrogatepass"))
        key = identity.hexdigest()
        if (known := self._cache.get_many([key]).get(key)) is not None:
            return Profile.from_bytes(known)
        log.info("embedding %d questions of %s for auto", len(training) + len(held_out), version.id)
        vectors = self._embedder.encode([*training, *held_out], kind="query")
        profile = make_profile(vectors[: len(training)], vectors[len(training) :], miss=self._miss)
        self._cache.put_many({key: profile.to_bytes()})
        return profile


def shared_embedder(embedders: Sequence[Embedding | None]) -> Embedding | None:
    """Of the embedders that domains are searched with the one that most of them have, of equals the first; None where
    all are searched by words alone."""
    there = [embedder for embedder in embedders if embedder is not None]
    counts = Counter(embedder.info.digest for embedder in there)
    return max(there, key=lambda embedder: counts[embedder.info.digest], default=None)


def questions_of(file: Path) -> list[str]:
    """The distinct questions of a file of records, at most `MOST`, evenly spread over it."""
    questions = list(dict.fromkeys(str(record.metadata["question"]) for record in read_jsonl(file, Record)))
    step = max(len(questions) / MOST, 1)
    return [questions[int(number * step)] for number in range(min(len(questions), MOST))]


def mixed_model(parts: Mapping[str, float]) -> str:
    """What an answer of a mixture calls its model: `mix:faq@2*0.625+law@3*0.375`; of one adapter its own id."""
    if len(parts) == 1:
        return next(iter(parts))
    return "mix:" + "+".join(f"{name}*{weight:g}" for name, weight in parts.items())
