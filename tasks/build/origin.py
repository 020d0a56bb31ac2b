"""Which machine computed a result, kept in its manifest, and whether it was of another kind than this one.

The same key gives the same bytes on the same kind of machine; another processor or accelerator rounds otherwise in the
last digits. So the kind is no part of a key or digest, and is told where a result that came from elsewhere is used.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

from jora_engine.model.native.library import name_here
from jora_engine.training.machine import describe, differences
from raft_version import VERSION

KIND = ("system", "cpu_features")
"""What two machines must have in common to count as of one kind; their accelerators are told by name."""


def this_machine(reported: Mapping[str, Any]) -> dict[str, Any]:
    """What computed a result here: this machine, our version, its JAX devices where JAX was used, and what the stage
    reported.

    Args:
        reported: what a child process told of itself (its devices, its attention), which counts first.
    """
    xla = sys.modules.get("jax._src.xla_bridge")
    started = bool(getattr(xla, "_backends", None))  # asking JAX itself would start it, and take the accelerator
    devices = describe(devices=True) if started and "backend" not in reported else {}
    return {**devices, **_here(), "raft": VERSION, **reported}


def elsewhere(machine: Mapping[str, Any]) -> str:
    """In a few words, on what other kind of machine a result was made; "" where it was one like this, or is unknown."""
    kind = {name: machine[name] for name in KIND if name in machine}
    other = differences(kind, {name: _here()[name] for name in KIND})
    words = [f"another processor ({machine.get('cpu', 'unknown')})"] if other else []
    words += [str(machine["device_kind"])] if machine.get("backend", "cpu") != "cpu" else []
    if machine.get("backend", "cpu") == "cpu" and machine.get("kernels", name_here()) != name_here():
        words.append(f"other kernels ({machine['kernels']} instead of {name_here()})")
    return f"made on {' with '.join(words)}" if words else ""


def in_words(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    if not machine:
        return ""
    parts = [str(machine.get("cpu") or machine.get("system", ""))]
    device = machine.get("device_kind")
    if device and machine.get("backend") != "cpu":
        count = machine.get("devices", 1)
        parts.append(f"{count} × {device}" if count != 1 else str(device))
    parts += [f"{name} {machine[name]}" for name in ("device", "attention") if machine.get(name)]
    packages = machine.get("packages", {})
    parts += [f"{name} {packages[name]}" for name in ("jax",) if name in packages]
    parts += [f"raft {machine['raft']}"] if machine.get("raft") else []
    return ", ".join(part for part in parts if part)


@functools.cache
def _here() -> dict[str, Any]:
    return describe()
