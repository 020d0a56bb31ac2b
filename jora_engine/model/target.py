"""The platform that programs are compiled for: that of the devices here, or another one whose devices are not here.

What is laid out differently for a back end asks here and not JAX. How others' devices are described, and which compiler
does the work, is the business of whoever compiles for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_elsewhere: ContextVar[str | None] = ContextVar("elsewhere", default=None)


def platform() -> str:
    """`cpu`, `gpu` or whatever else `jax.default_backend()` may say."""
    return _elsewhere.get() or jax.default_backend()


def is_here() -> bool:
    """Whether the devices that programs are compiled for can be asked something."""
    return _elsewhere.get() is None


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Programs that are traced inside are laid out for that platform: to be compiled for devices of it, not run.

    JAX forgets what it has traced on both sides of it, as nothing in its keys tells the platforms apart.
    """
    jax.clear_caches()
    token = _elsewhere.set(name)
    try:
        yield
    finally:
        _elsewhere.reset(token)
        jax.clear_caches()
