"""Which distributions decide a result: those that its code imports, and what these in turn leave the work to.

Nobody lists them for a stage: whatever a stage's code imports counts, unless it stands in `CARRIERS` here. A name that
is imported and the name that is installed differ now and then; a test holds `NAMES` to what is installed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterable, Mapping

NAMES = {
    "Stemmer": "pystemmer",
    "faiss": "faiss-cpu",
    "orbax": "orbax-checkpoint",
    "raft_names": "jora-raft",
    "yaml": "pyyaml",
}
"""Imported name -> distribution, where the two are not the same word."""

CARRIERS = frozenset(
    {
        *("pydantic", "annotated-types", "pyyaml"),  # hold settings, which count by their values
        *("fsspec", "openai", "tenacity", "distributed"),  # carry bytes and work to another place and back
        *("lancedb", "qdrant-client"),  # clients of a store whose content is its owner's matter
        *("matplotlib", "orbax-checkpoint"),  # draw the result, keep its way to it
        "jora-raft",  # ours: its code counts file by file, its version is only a name
    }
)
"""Imported, but without a say in what comes out: another version of one of these makes nothing anew."""

BEHIND: Mapping[str, tuple[str, ...]] = {
    "bm25s": ("numpy",),
    "datasketch": ("numpy", "scipy"),
    "ir-measures": ("pytrec-eval-terrier",),
    "jax": ("jaxlib",),
    "rouge-score": ("nltk",),
    "sentence-transformers": ("torch", "transformers"),
    "transformers": ("tokenizers",),
}
"""Distribution -> those that do its work and that our code need not import itself."""


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions_of(imported: Iterable[str]) -> list[str]:
    """The distributions behind imported top-level names, with what these leave the work to, without the carriers."""
    names: set[str] = set()
    queue = [distribution_of(module) for module in imported]
    while queue:
        name = queue.pop()
        if name not in names and name not in CARRIERS:
            names.add(name)
            queue += BEHIND.get(name, ())
    return sorted(names)


@functools.cache
def distribution_of(module: str) -> str:
    """The distribution that brings the module; the module's own name where none is installed."""
    name = normal(NAMES.get(module, module))
    if name in CARRIERS or _installed(name):
        return name
    return normal(min(_providers().get(module, [name])))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()  # reads the list of files of everything that is installed
