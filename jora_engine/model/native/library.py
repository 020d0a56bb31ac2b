"""The compiled kernels: built for this processor where a C++ compiler is, kept in the user's cache, given to XLA.

A wheel carries the sources and needs no compiler: without one, or on a processor that they are not for, there is no
library, and everything is computed as XLA compiles it. `python -m jora_engine.model.native.library` builds it ahead of
its first use and says what came of it. RAFT_NATIVE=off does without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("raft.engine")

SOURCES = ("handlers.cpp", "attention.h", "elementwise.h", "linear.h", "reply.h", "scratch.h", "vectors.h")
TARGETS = (
    *(f"raft_{name}_{way}" for name in ("attention", "swiglu", "norm") for way in ("forward", "backward")),
    "raft_attention_cached",
    "raft_attention_reply",
    "raft_linear",
)
"""Functions of the library, which XLA calls by the same names."""

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
COMPILERS = ("g++", "c++", "clang++")
COMPILE_SECONDS = 300
_HERE = Path(__file__).parent
_CPU_INFO = Path("/proc/cpuinfo")


class Level(NamedTuple):
    """Instructions that kernels are compiled for.

    Attributes:
        features: what the processor must have, as the kernel of the system names it.
        flags: the compiler's.
        dtypes: what the kernels then compute.
    """

    features: frozenset[str]
    flags: tuple[str, ...]
    dtypes: tuple[str, ...]


_V4 = frozenset({"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
LEVELS = {
    "avx512_bf16": Level(_V4 | {"avx512_bf16"}, ("-march=x86-64-v4", "-mavx512bf16"), ("float32", "bfloat16")),
    "avx512": Level(_V4, ("-march=x86-64-v4",), ("float32",)),
}
"""The best first."""

TILES = "amx_bf16"  # with matrix tiles XLA's products are faster than vectors; the kernels were never timed beside them


class Library(NamedTuple):
    """The kernels of this process.

    Attributes:
        name: the level, and a digest of sources, flags and the version of XLA's interface.
        file: where it lies.
        dtypes: what it computes.
    """

    name: str
    file: Path
    dtypes: tuple[str, ...]


class Unavailable(Exception):
    """Why there is no library."""


@functools.cache
def library() -> Library:
    """The library, compiled if need be and known to XLA.

    Raises:
        Unavailable: switched off, not for this processor, no compiler, or it did not compile.
    """
    level, name = _level_and_name()
    file = _folder() / f"{name}.so"
    if (failure := _failure(file)).is_file():
        raise Unavailable(
            f"{failure.read_text(encoding='utf-8', errors='replace')} ({failure} keeps it from being tried)"
        )
    if not file.is_file():
        _compile(file, LEVELS[level].flags)
    _check_owner(file)
    _register(file)
    return Library(name, file, LEVELS[level].dtypes)


def name_here() -> str:
    """The name of the library that this machine uses, or can compile; `xla` where it does without. Starts no JAX."""
    try:
        name = _level_and_name()[1]
    except Unavailable:
        return "xla"
    file = _folder() / f"{name}.so"
    return name if file.is_file() or (_compiler() and not _failure(file).is_file()) else "xla"


def _level_and_name() -> tuple[str, str]:
    if os.environ.get("RAFT_NATIVE", "").lower() in ("off", "0", "no"):
        raise Unavailable("RAFT_NATIVE switches native kernels off")
    features = _features()
    if TILES in features:
        raise Unavailable("this processor has matrix tiles, which XLA uses and the native kernels do not")
    for level, (needed, flags, _) in LEVELS.items():
        if needed <= features:
            digest = hashlib.sha256(repr((FLAGS, flags, importlib.metadata.version("jaxlib"))).encode())
            for source in SOURCES:
                digest.update((_HERE / source).read_bytes())
            return level, f"{level}-{digest.hexdigest()[:16]}"
    raise Unavailable("this processor has no AVX-512")


def _features() -> frozenset[str]:
    """The processor's, as Linux names them; none elsewhere."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split()[2:]) for line in lines if line.startswith("flags")), frozenset())


def _folder() -> Path:
    """The cache that the `raft` command uses as well (`tasks.store.places.cache_folder`)."""
    if own := os.environ.get("RAFT_CACHE"):
        return Path(own).absolute() / "native"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "raft" / "native"


def _compiler() -> str | None:
    own = os.environ.get("CXX")
    return shutil.which(own) if own else next(filter(None, map(shutil.which, COMPILERS)), None)


def _compile(file: Path, flags: tuple[str, ...]) -> None:
    """Writes the library; of several processes that do so at once each writes its own, and the last one stays."""
    import jax

    compiler = _compiler()
    if compiler is None:
        raise Unavailable("there is no C++ compiler")
    log.info("native kernels are compiled for this processor, once: about half a minute")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as work:
            made = Path(work, file.name)
            command = [compiler, *FLAGS, *flags, "-I", jax.ffi.include_dir(), str(_HERE / SOURCES[0]), "-o", str(made)]
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=False
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
                reason = f"{compiler} failed: {(lines or ['no word'])[0][:200]}"
                _failure(file).write_text(reason, encoding="utf-8", newline="\n")
                raise Unavailable(reason)
            made.chmod(0o700)
            made.rename(file)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the library cannot be compiled in {file.parent}: {error}") from error


def _failure(file: Path) -> Path:
    """Where it is kept that a library did not compile: it would not the next time either."""
    return file.with_suffix(".failed")


def _check_owner(file: Path) -> None:
    """What others can write is not run."""
    for place in (file, file.parent):
        facts = place.stat()
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            raise Unavailable(f"{place} can be written by others")


def _register(file: Path) -> None:
    import jax

    try:
        functions = ctypes.CDLL(str(file))
        for target in TARGETS:
            capsule = jax.ffi.pycapsule(getattr(functions, target))
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{file} cannot be loaded: {error}") from error


if __name__ == "__main__":
    try:
        print(f"native kernels: {library().file}")  # noqa: T201  a command's answer
    except Unavailable as error:
        print(f"native kernels: none, {error}")  # noqa: T201
