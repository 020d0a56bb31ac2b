"""The licences behind an adapter: of base, embedder, teacher and documents; and what does not go together.

A licence is what raft.yaml says (`licences`), else what comes with the model or stands in the documents' own fields.
The names are SPDX's where there is one. This is a reading of names, no legal advice: it warns and refuses nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data.nouns import Document
from tasks.inputs.model_catalog import CATALOG

UNKNOWN = "unknown"
FIELDS = ("license", "licence", "rights", "dc:rights")
"""Columns and fields of documents that name a licence."""
PYTHON_DOCS = ("pydoc:",)
"""Sources of the Python documentation that is on every machine, under PSF-2.0."""

_SPDX = {
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license": "Apache-2.0",
    "mit": "MIT",
    "mit license": "MIT",
    "psf-2.0": "PSF-2.0",
    "llama2": "Llama-2",
    "llama 2 community license": "Llama-2",
    "llama3": "Llama-3",
    "meta llama 3 community license": "Llama-3",
    "gemma": "Gemma",
}
_TEXTS = (
    (r"llama 2 community license", "Llama-2"),
    (r"meta llama 3 community license", "Llama-3"),
    (r"llama 3\.\d community license", "Llama-3.x"),
    (r"apache license\s+version 2\.0", "Apache-2.0"),
    (r"^\s*mit license|permission is hereby granted, free of charge", "MIT"),
    (r"gemma terms of use", "Gemma"),
)
_OUTPUT = {
    "Llama-2": "its output may improve no language model but Llama 2 and what derives from it",
    "Llama-3": "its output may improve no language model but Llama 3 and what derives from it",
    "OpenAI": "its output may train no model that competes with its maker",
    "Anthropic": "its output may train no model that competes with its maker",
    "Google": "its output may train no model that competes with its maker",
}
"""Licence or terms -> what they say of training on what the model writes."""
_MAKERS = ((r"^(gpt-|o\d|chatgpt)", "OpenAI"), (r"^claude", "Anthropic"), (r"^gemini", "Google"))
_HOSTS = ("api.openai.com", "openai.azure.com")
_MODELS = ((r"llama-?2", "Llama-2"), (r"llama-?3(?![.\d-]*[.-][1-9]\b)", "Llama-3"))


@dataclass(frozen=True)
class Licences:
    """By name; `documents` counts those under each, "" for those that name none."""

    base: str = UNKNOWN
    embedder: str = UNKNOWN
    teacher: str = ""
    documents: Mapping[str, int] = field(default_factory=dict)

    @property
    def of_all_documents(self) -> str:
        """The licence that every document stands under; "" where they differ or one names none."""
        return next(iter(self.documents)) if len(self.documents) == 1 else ""

    def conflicts(self) -> list[str]:
        """What does not go together, a sentence each."""
        sentences = []
        if (terms := _OUTPUT.get(self.teacher)) and self.teacher != self.base:
            sentences.append(f"The teacher stands under {self.teacher}: {terms}.")
        for name in sorted(self.documents):
            if re.search(r"(?i)\bN[CD]\b|non-?commercial|no-?derivatives|all rights reserved", name):
                sentences.append(f"Documents stand under {name}, which may not allow an adapter made of them.")
        return sentences

    def gaps(self) -> list[str]:
        """What is not known, a sentence each."""
        sentences = []
        if self.base == UNKNOWN:
            sentences.append("The licence of the base model is not known: set `licences.base`.")
        if count := self.documents.get(""):
            none = "No document names a" if len(self.documents) == 1 else f"{count} of the documents name no"
            sentences.append(f"{none} licence: set `licences.documents`.")
        return sentences


def spdx(name: str) -> str:
    """A licence's name as SPDX writes it, where it is known; "" for none."""
    text = " ".join(str(name).split())
    if match := re.fullmatch(r"(?i)cc[- ](by(?:-(?:nc|sa|nd))*|0)[- ](\d\.\d)", text.replace("_", "-")):
        return f"CC-{match[1].upper()}-{match[2]}" if match[1] != "0" else f"CC0-{match[2]}"
    return _SPDX.get(text.lower(), "" if text.lower() in ("other", "none", "null", UNKNOWN) else text)


def of_model(name: str, folder: Path | None) -> str:
    """The licence of a model: its card's, else the one whose text lies beside it, else the one known by its name."""
    known = CATALOG.get(name)
    if known and known.licence:
        return known.licence
    if folder is not None:
        card = re.match(r"---\n(.*?)\n---", _text(folder / "README.md"), re.DOTALL)
        try:
            header: Any = yaml.safe_load(card[1]) if card else {}
        except yaml.YAMLError:
            header = {}
        named = header.get("license") if isinstance(header, dict) else None
        if isinstance(named, str) and spdx(named):
            return spdx(named)
        for path in sorted([*folder.glob("LICENSE*"), *folder.glob("NOTICE*")]):
            text = _text(path).lower()
            if match := next((name for pattern, name in _TEXTS if re.search(pattern, text)), ""):
                return match
    return next((terms for pattern, terms in _MODELS if re.search(pattern, name.lower())), UNKNOWN)


def of_teacher(model: str, url: str | None) -> str:
    """Whose terms a teacher at an endpoint stands under; "" where that is not known."""
    if url is None or any(host in url for host in _HOSTS):
        return "OpenAI"
    short = model.lower().rpartition("/")[2]
    return next((terms for pattern, terms in (*_MAKERS, *_MODELS) if re.search(pattern, short)), "")


def of_documents(documents: Iterable[Document], default: str | None) -> dict[str, int]:
    """How many documents stand under each licence, by a column or field of their own, else by `default`."""
    counts: Counter[str] = Counter()
    for document in documents:
        fields = {**document.metadata, **(document.metadata.get("fields") or {})}
        named = next((str(fields[name]) for name in FIELDS if fields.get(name)), "")
        if not named and document.source.startswith(PYTHON_DOCS):
            named = "PSF-2.0"
        counts[spdx(named or default or "")] += 1
    return dict(sorted(counts.items()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return ""
