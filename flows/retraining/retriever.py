"""Keeps the retriever that was fitted for the version in use, so that a changed corpus does not have it fitted anew.

Fitting is minutes, and a change of the embedder embeds everything again. So a night takes the fitted retriever for its
own stage `adapt` (`tasks.build.kept`), until a training starts from the base model, fewer questions find their passage,
or a document that it learnt from is held out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.records.splits import FrozenSplits
from data.text.counts import counted
from flows.retraining.concluding import manifests
from flows.run import Run
from flows.step import Step
from flows.walk import Built
from tasks.adapters.versions import Adapter
from tasks.build import kept
from tasks.build.events import Said
from tasks.build.stage import Request
from tasks.runtime.adapted import choice_of
from tasks.runtime.any_hit import any_hit_then_and_now

if TYPE_CHECKING:
    from tasks.store.manifest import Manifest

FITTED = ("embedder", "reranker")


class RetrieverKeeper:
    """A step that takes what was fitted for the version in use, and is asked afterwards whether that may stay."""

    def __init__(self, run: Run, adapter: Adapter, step: Step) -> None:
        self._run, self._adapter, self._step = run, adapter, step
        self._request: Request | None = None
        self._given_up = False

    def __call__(self, request: Request) -> Manifest:
        if request.stage.name == "adapt" and not self._given_up:
            self._keep(request)
        return self._step(request)

    @property
    def keeps(self) -> bool:
        """Whether tonight's retriever is an earlier one."""
        return self._request is not None

    def give_up(self) -> None:
        """The retriever is fitted when it is asked for again."""
        if self._request is not None:
            kept.give_up(self._request, self._run.store)
        self._request, self._given_up = None, True

    def outdated(self, built: Built) -> str:
        """Why the retriever may not stay, or "".

        Args:
            built: tonight's results up to the records, made with it.
        """
        version = self._adapter.in_use
        assert version is not None
        learnt = next(v for v in self._adapter.versions if v.stages.get("adapt") == version.stages["adapt"])
        then = manifests(self._run, learnt.stages)
        if "records" not in then:
            return f"what version {learnt.number} held out when it was fitted is no longer in the store"
        before, now = (FrozenSplits.read(m["records"].path("splits.json")) for m in (then, built))
        if moved := _held_out_now(before, now):
            return f"of what it learnt from {counted(moved, 'document')} {'is' if moved == 1 else 'are'} held out now"
        last = manifests(self._run, version.stages)
        if not {"index", "chunk", "records"} <= last.keys():
            return ""
        shares = any_hit_then_and_now(last, built, self._run.config.retrieval, self._run.models)
        if shares is not None and shares[0] - shares[1] >= max(self._run.config.retrain.recall_drop, 1e-9):
            words = "the share of the test questions with an oracle among their passages fell"
            return f"{words} from {shares[0]:.3f} to {shares[1]:.3f}"
        return ""

    def _keep(self, request: Request) -> None:
        version, store = self._adapter.in_use, self._run.store
        link = version.stages.get("adapt") if version is not None else None
        if version is None or link is None or store.load("adapt", request.key()) is not None:
            return
        earlier = manifests(self._run, {"adapt": link}).get("adapt")
        if earlier is None or not {*FITTED} & {*choice_of(earlier)}:
            return  # what was weighed and judged alone is quickly judged again
        if any(not words.startswith("input ") for words in kept.differences(request, earlier).choices):
            return  # other settings, models or seed
        why = f"fitted for version {version.number} on an earlier corpus"
        kept.accept(request, earlier, store, (why,))
        self._request = request
        self._run.reporter(Said(f"adapt: the retriever in use is kept ({why})"))


def _held_out_now(before: FrozenSplits, now: FrozenSplits) -> int:
    """How many documents, or passages where these are held out, were trained on and are held out now."""
    pairs = [(before.documents, now.documents), (before.chunks, now.chunks)]
    return sum(side != "train" and then.get(name) == "train" for then, later in pairs for name, side in later.items())
