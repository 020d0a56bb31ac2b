"""The verbs of the registry: `promote` a version, `rollback`, and list the `adapters`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from flows.cli.options import (
    ConfigOption,
    JsonOption,
    SetOption,
)
from flows.cli.output import Terminal, emit, table, warn
from tasks.adapters.decisions import RetrainDecision, read_decisions
from tasks.adapters.registry import Registry
from tasks.adapters.registry import adapters as all_adapters
from tasks.adapters.versions import Adapter
from tasks.config import load_config
from tasks.store.store import Store

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the history")]


def promote(
    version: Annotated[
        int | None, typer.Argument(help="Number of a version; default: what `raft run` built", show_default=False)
    ] = None,
    reason: ReasonOption = "by hand",
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Put a version of the adapter into use; the gate is not asked. Without a number: what `raft run` built."""
    from flows.ready import Stale, facts, ready

    registry = _registry(config, set_)
    stale: Stale | None = None
    if version is None:
        _, built, stale = ready(config, set_, "evaluate")
        warn(stale)
        version = registry.register(built, reason="built by raft run").number
    _show(registry, registry.promote(version, reason=reason), json, facts(stale))


def rollback(
    reason: ReasonOption = "by hand", config: ConfigOption = None, set_: SetOption = None, json: JsonOption = False
) -> None:
    """Go back to the version that the one in use replaced (to the base model alone after the first)."""
    registry = _registry(config, set_)
    _show(registry, registry.roll_back(reason=reason), json)


def adapters(
    history: Annotated[bool, typer.Option("--history", help="Every change with its reason")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """List the versions of every adapter in the store: which one is in use, which ones wait, and why."""
    registries = all_adapters(_registry(config, set_).store)
    if json:
        emit({"ok": True, "adapters": [{**_row(r, r.read()), "nights": _nights(r)} for r in registries]})
        return
    out = Terminal()
    if not registries:
        out.print("No adapter is registered yet: raft retrain registers what it trains, raft promote what was run.")
    for registry in registries:
        adapter = registry.read()
        out.print(table(adapter.name, ("version", "state", "made", "from", "why"), _versions(adapter)))
        if adapter.promoted is not None:
            out.print(f"in use: {registry.pointer}", soft_wrap=True)
        if history:
            rows = [(e.at, str(e.version), e.action, e.reason) for e in adapter.history]
            out.print(table("", ("when", "version", "what", "why"), rows))
            nights = read_decisions(registry.store, registry.name)
            if nights:
                out.print(table("", ("night", "choice", "result", "why"), [_night_row(night) for night in nights]))


def _nights(registry: Registry) -> list[dict[str, Any]]:
    return [night.model_dump(mode="json") for night in read_decisions(registry.store, registry.name)]


def _night_row(night: RetrainDecision) -> tuple[str, ...]:
    return night.at, night.action, night.result, "; ".join(filter(None, (night.reason, night.why)))


def _registry(config: Path | None, overrides: list[str] | None) -> Registry:
    run_config = load_config(config, overrides or [])
    return Registry(Store(Path(run_config.store), mode=run_config.store_mode), run_config.name)


def _show(
    registry: Registry, adapter: Adapter, as_json: bool, freshness: Mapping[str, Any] = MappingProxyType({})
) -> None:
    if as_json:
        emit({"ok": True, **freshness, **_row(registry, adapter)})
        return
    out = Terminal()
    if adapter.promoted is None:
        until = "until the next `raft promote` `raft serve` answers nothing under this name"
        out.print(f"{adapter.name}: no version is in use; {until}.", soft_wrap=True)
    else:
        place = registry.pointer.resolve() / "adapter"
        out.print(f"{adapter.name}: version {adapter.promoted} is in use, {place}", soft_wrap=True)


def _row(registry: Registry, adapter: Adapter) -> dict[str, Any]:
    row = adapter.model_dump(mode="json")
    return {**row, "pointer": str(registry.pointer) if adapter.promoted is not None else None}


def _versions(adapter: Adapter) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for v in adapter.versions:
        state = "in use, on trial" if v.state == "promoted" and adapter.on_trial else v.state
        rows.append(
            (str(v.number), state, v.created, f"version {v.started_from}" if v.started_from else "base", v.reason)
        )
    return rows
