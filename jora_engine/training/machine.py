"""What of a machine decides how a computation rounds: the processor's vector units, the devices, the versions.

The same inputs give the same bytes where two descriptions are equal, and elsewhere almost the same ones. Goes into
manifests and checkpoints; decides nothing itself.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
VECTOR_UNITS = ("avx", "fma", "amx", "asimd", "bf16", "i8mm", "sve")
"""Beginnings of the processor features for which XLA and numpy choose other instructions."""
_CPU_INFO = Path("/proc/cpuinfo")


def describe(devices: bool = False) -> dict[str, Any]:
    """This machine in JSON values: `system`, `cpu`, `cpu_features`, `cores` and the `packages`' versions.

    Args:
        devices: also `backend`, `device_kind` and `devices` as JAX sees them, which starts JAX.
    """
    model, features = _processor()
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "cpu_features": features,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if devices:
        import jax

        facts |= {
            "backend": jax.default_backend(),
            "device_kind": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
        }
    return facts


def keep_programs(folder: Path | None) -> None:
    """JAX keeps what it compiles in the folder; where its own environment variables say otherwise, they hold."""
    import jax

    settings = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.5}
    for name, value in settings.items() if folder else ():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions, each in a few words; only what both of them tell is compared."""
    words = []
    for name, old in before.items():
        new = now.get(name)
        if name not in now or new == old:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            words += [f"{name} {part}" for part in differences(old, new)]
        elif isinstance(old, list) and isinstance(new, list):
            words += [f"{name} without {item}" for item in old if item not in new]
            words += [f"{name} with {item}" for item in new if item not in old]
        else:
            words.append(f"{name} {new} instead of {old}")
    return words


def _processor() -> tuple[str, list[str]]:
    """(model name, vector features in use), as the kernel tells them; no features where it does not."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    first: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            first.setdefault(name.strip().lower(), value.strip())
    flags = (first.get("flags") or first.get("features") or "").split()
    return first.get("model name") or platform.machine(), sorted({f for f in flags if f.startswith(VECTOR_UNITS)})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
