"""What a process that reads foreign files is given: a clean environment, and a share of the machine's memory.

Tokens, proxies and the user's home stay with the parent; nothing here knows what the files are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from raft_errors import BadInput

# what Python, the dynamic loader and the texts' encodings need; nothing else is passed on
_PASSED_ON = {"PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH",
              "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE",
              "PYTHONPYCACHEPREFIX", "SYSTEMROOT"}  # fmt: skip
_SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1",
             "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "MALLOC_ARENA_MAX": "2",
             "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}  # fmt: skip
_MOST_WORKERS = 8
_GIB = 2**30


def clean_environment(folder: str, paths: Sequence[str], inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a worker.

    Args:
        folder: its home and the place of its temporary files.
        paths: where it finds modules.
    """
    kept = {name: value for name, value in inherited.items() if name in _PASSED_ON or name.startswith("LC_")}
    places = {"HOME": folder, "TMPDIR": folder, "HF_HOME": f"{folder}/hf", "PYTHONPATH": os.pathsep.join(paths)}
    return {**kept, **_SETTINGS, **places}


def fitting_workers(wanted: int | None, files: int, max_memory_bytes: int) -> int:
    """How many processes read `files` files, so that together they cannot need more memory than there is.

    Args:
        wanted: as the user set it; None = one a CPU, at most 8, and no more than fit.
        max_memory_bytes: the address space of each.

    Raises:
        BadInput: the user wants more than fit. One is always allowed.
    """
    memory = machine_memory()
    fitting = max(1, memory // max_memory_bytes) if memory else _MOST_WORKERS * 32
    if wanted is None:
        return max(1, min(os.cpu_count() or 1, _MOST_WORKERS, files, fitting))
    workers = max(1, min(wanted, files))
    if memory and workers > fitting:
        raise BadInput(
            f"ingest.workers: {workers} processes of up to {max_memory_bytes / _GIB:g} GiB each could need "
            f"{workers * max_memory_bytes / _GIB:.1f} GiB, and this machine or container has {memory / _GIB:.1f} GiB",
            expected=f"at most {fitting} of that size",
            do="lower ingest.workers, or ingest.max_memory_mib",
        )
    return workers


def machine_memory() -> int | None:
    """Bytes of memory of this machine, or of the container that limits it; None where the system does not say."""
    known = list(_cgroup_limits())
    with contextlib.suppress(AttributeError, ValueError, OSError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((limit for limit in known if limit > 0), default=None)


def _cgroup_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Limits of the process's control group and of all above it, of either version."""
    try:
        lines = own.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        folder = top / place.lstrip("/")
        for one in [folder, *folder.parents]:
            with contextlib.suppress(OSError, ValueError):
                yield int((one / name).read_text(encoding="ascii"))
            if one == top:
                break
