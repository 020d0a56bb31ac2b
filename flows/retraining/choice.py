"""What a night does: nothing, refresh the index, or train, chosen from what has changed since the last training.

The policy itself is in `tasks.adapters.policy`; here stands what it has to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.nouns import Chunk, Document, read_jsonl
from flows.calls import STAGES, calls_to
from flows.retraining.concluding import manifests
from flows.run import Run
from flows.walk import Built
from tasks.adapters.decisions import RetrainDecision, days_since_training
from tasks.adapters.policy import Change, Choice, choose, compare
from tasks.adapters.versions import Adapter
from tasks.build.kept import setting_differences
from tasks.build.keys import key_of, result_fields
from tasks.config import RunConfig
from tasks.runtime.any_hit import any_hit_then_and_now
from tasks.store.manifest import Manifest

_SECTIONS = [name for call in calls_to("train") for name in (call.stage.name, *call.stage.shared)]
DECIDING = ("models", *dict.fromkeys(name for name in _SECTIONS if name in RunConfig.model_fields))
"""The sections whose change asks for another training: of every stage up to it."""


def settings_of(run: Run) -> dict[str, str]:
    """Digests of the sections that decide a training; files named in them count by their bytes."""
    off = {name for name, stage in STAGES.items() if not run.wants(stage)}
    digests = {name: key_of(result_fields(getattr(run.config, name))) for name in DECIDING if name not in off}
    return {**digests, "seed": key_of({"seed": run.config.seed})}


def choose_action(
    run: Run, adapter: Adapter, nights: list[RetrainDecision], built: Built, settings: Mapping[str, str], force: bool
) -> tuple[Choice, Change | None]:
    """The policy's choice, and how the corpus has changed since the newest version, where that can be told.

    Args:
        built: tonight's documents, chunks, index and records, by the names of their calls.
    """
    config = run.config.retrain
    trained = next((n for n in reversed(nights) if n.action == "retrain"), None)
    then = manifests(run, adapter.versions[-1].stages) if adapter.versions else {}
    if not {"ingest", "chunk", "index", "records"} <= then.keys():
        return choose(config, change=None, age_days=None, forced=force), None
    change = compare(_documents(then), _documents(built), _passages(then), _passages(built))
    known = trained.settings if trained else {}  # none where the line was written for a night that had died
    facts: dict[str, Any] = {
        "change": change,
        "age_days": days_since_training(nights, adapter),
        "settings": [n for n in settings if known and settings[n] != known.get(n) and _chosen_anew(run, then, n)],
        "forced": force,
    }
    choice = choose(config, **facts)
    if choice.action == "refresh" and change.passages > 0:
        any_hit = any_hit_then_and_now(then, built, run.config.retrieval, run.models)
        choice = choose(config, **facts, any_hit=any_hit)
    return choice, change


def _chosen_anew(run: Run, then: Mapping[str, Manifest], name: str) -> bool:
    """Whether somebody changed a section since the last training.

    The log has digests alone, and they change also where a release brings a new setting or where the project's folder
    was moved; the results of that training say what they were made with.
    """
    if name == "models":
        earlier = {n: digest for m in then.values() for n, digest in m.ingredients["models"].items()}
        return any(n not in run.models or run.models[n].digest != digest for n, digest in earlier.items())
    ingredients = then["records"].ingredients["shared"] if name == "retrieval" else {}
    if name in then:
        ingredients = {name: then[name].ingredients["config"]}
    if name not in ingredients:
        return True
    return bool(setting_differences(ingredients[name], getattr(run.config, name)).choices)


def _documents(built: Mapping[str, Manifest]) -> dict[str, str]:
    return {d.source: d.sha256 for d in read_jsonl(built["ingest"].path("documents.jsonl"), Document)}


def _passages(built: Mapping[str, Manifest]) -> list[str]:
    return [c.id for c in read_jsonl(built["chunk"].path("chunks.jsonl"), Chunk)]
