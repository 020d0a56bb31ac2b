"""The chain behind an adapter, read from the store's manifests: corpus, chunks, index, questions, records, training,
export, evaluation, each with its digest, key, settings, seed and models; and a check of every link of it.

`trace` tells what the manifests say, `verify` recomputes it from the bytes. Nothing is built or changed here, and
nothing is known of what a stage does.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raft_errors import BadInput
from tasks.build import kept
from tasks.build.keys import key_of
from tasks.build.stage import Stage
from tasks.inputs.models import ModelFiles
from tasks.store.hashing import digest_of, read_sha256
from tasks.store.manifest import MANIFEST, Damage, Link, Manifest
from tasks.store.store import Store, read_json

CONTRACT = "adapter/raft.json"
WEIGHTS = "adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class Step:
    """One stage of a chain.

    Attributes:
        link: its stage, key and content digest.
        inputs: the links it was built from; outside inputs (`corpus`) stand in `outside` with their digest.
        manifest: as read from the store, its files unchecked; None where the store has it no more.
    """

    link: Link
    inputs: dict[str, Link] = field(default_factory=dict)
    manifest: Manifest | None = None

    @property
    def name(self) -> str:
        return f"{self.link.stage}/{self.link.key[:8]}"

    @property
    def ingredients(self) -> dict[str, Any]:
        return self.manifest.ingredients if self.manifest else {}

    @property
    def outside(self) -> dict[str, str]:
        given = self.ingredients.get("inputs", {})
        return {name: digest for name, digest in given.items() if name not in self.inputs}

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {**self.link.model_dump(), "inputs": {n: v.model_dump() for n, v in self.inputs.items()}}
        if self.manifest is None:
            return {**row, "missing": True}
        facts = self.ingredients
        return {
            **row,
            "outside": self.outside,
            "built": built_at(self.manifest),
            "seconds": self.manifest.seconds,
            "summary": self.manifest.summary,
            "config": facts.get("config", {}),
            "shared": facts.get("shared", {}),
            "seed": facts.get("seed"),
            "models": facts.get("models", {}),
            "code": digest_of(facts.get("code", {})),
            "packages": facts.get("packages", {}),
            "machine": self.manifest.machine,
            "files": [entry.model_dump() for entry in self.manifest.files],
            "folder": str(self.manifest.folder),
        }


@dataclass(frozen=True)
class Chain:
    """Everything behind one adapter, in the order in which it was built; the last step is its evaluation or export.

    Attributes:
        contract: the adapter's raft.json: base model, prompt, retrieval, digests of its lineage.
    """

    export: Link
    steps: tuple[Step, ...]
    contract: dict[str, Any]

    def step(self, stage: str) -> Step | None:
        """The step of that stage nearest to the adapter: its own, not one of an adapter that it was started from."""
        known = {(step.link.stage, step.link.key): step for step in self.steps}
        queue = [self.steps[-1].link, self.export]
        seen: set[tuple[str, str]] = set()
        while queue:
            link = queue.pop(0)
            if link.stage == stage:
                return known[link.stage, link.key]
            if (link.stage, link.key) not in seen:
                seen.add((link.stage, link.key))
                queue += known[link.stage, link.key].inputs.values()
        return None

    def to_dict(self) -> dict[str, Any]:
        base = {name: self.contract.get(name) for name in ("base_model", "base_digest", "base_source")}
        return {"adapter": self.export.model_dump(), **base, "steps": [step.to_dict() for step in self.steps]}


@dataclass(frozen=True)
class Finding:
    """What `verify` has to say about a step. A fault breaks the chain; anything else only ends its freshness."""

    step: str
    what: str
    fault: bool


def trace(store: Store, export: Link, evaluation: Link | None = None) -> Chain:
    """The chain that ends in an export, or in its evaluation where there is one.

    Args:
        evaluation: default: the newest one in the store of this very export.
    """
    evaluation = evaluation or _evaluation_of(store, export)
    steps: dict[tuple[str, str], Step] = {}
    _walk(store, evaluation or export, steps)
    if (export.stage, export.key) not in steps:
        _walk(store, export, steps)
    contract: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        contract = read_json(store.folder(export.stage, export.key) / CONTRACT)
    return Chain(export, tuple(steps.values()), contract)


def _walk(store: Store, link: Link, steps: dict[tuple[str, str], Step]) -> None:
    """Depth first, so that a step comes after all it was built from. A chain is as deep as it has generations."""
    stack: list[tuple[Link, Iterator[Link]]] = []
    opened: set[tuple[str, str]] = set()
    known: dict[tuple[str, str], Step] = {}

    def enter(link: Link) -> None:
        opened.add((link.stage, link.key))
        manifest = store.read(link.stage, link.key)
        step = Step(link, dict(manifest.lineage) if manifest else {}, manifest)
        known[link.stage, link.key] = step
        stack.append((link, iter(step.inputs.values())))

    enter(link)
    while stack:
        here, rest = stack[-1]
        following = next((n for n in rest if (n.stage, n.key) not in opened), None)
        if following is not None:
            enter(following)
        else:
            stack.pop()
            steps.setdefault((here.stage, here.key), known[here.stage, here.key])


def _evaluation_of(store: Store, export: Link) -> Link | None:
    for manifest in store.manifests("evaluate"):
        link = manifest.lineage.get("export")
        if link is not None and (link.key, link.digest) == (export.key, export.digest):
            return manifest.link
    return None


def find_export(store: Store, name: str | None = None) -> Link:
    """The export that is meant by the beginning of its key or digest, or by a folder that holds a copy of its adapter.

    Args:
        name: None means the newest one.
    Raises:
        BadInput: nothing in the store fits, or several exports do.
    """
    exports = store.manifests("export")
    if name is None and exports:
        return exports[0].link
    if name is not None and Path(name).is_dir():
        return _of_folder(exports, Path(name))
    links = [m.link for m in exports if name and (m.key.startswith(name) or m.digest.startswith(name))]
    if len(links) == 1:
        return links[0]
    known = ", ".join(m.key[:8] for m in exports[:5])
    raise BadInput(
        f"{len(links)} adapters in {store.root} fit {name!r}" if name else f"There is no adapter in {store.root} yet",
        expected=f"the beginning of an export's key ({known})" if exports else "a finished export",
        do="see `raft adapters`, or give the adapter's folder" if exports else "build one: raft run",
    )


def _of_folder(exports: list[Manifest], folder: Path) -> Link:
    place = folder / "adapter" if (folder / "adapter").is_dir() else folder
    try:
        wanted = {name: read_sha256(place / Path(name).name) for name in (WEIGHTS, CONTRACT)}
    except OSError as error:
        raise BadInput(
            f"{folder} holds no adapter of this project ({error.strerror}: {Path(error.filename).name})",
            expected="a folder with adapter_model.safetensors and raft.json",
        ) from error
    for manifest in exports:
        if wanted.items() <= {entry.path: entry.sha256 for entry in manifest.files}.items():
            return manifest.link
    raise BadInput(
        f"The adapter in {folder} was not made by any export in the store, or was altered since",
        do="name the store that made it (--set store=...), or compare the digests in its raft.json by hand",
    )


def built_at(manifest: Manifest) -> str:
    """When the manifest was published, UTC."""
    with contextlib.suppress(OSError):
        moment = (manifest.folder / MANIFEST).stat().st_mtime
        return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(timespec="seconds")
    return ""


def made_by_other_code(chain: Chain, stages: Mapping[str, Stage]) -> dict[tuple[str, str], list[str]]:
    """`{(stage, key): what differs, in words}` of the steps that this installation would make otherwise."""
    differences = {}
    for step in chain.steps:
        if step.manifest is not None and (declared := stages.get(step.link.stage)):
            differences[step.link.stage, step.link.key] = kept.made_otherwise(step.ingredients, declared.making())
    return {entry: words for entry, words in differences.items() if words}


def kept_steps(chain: Chain, store: Store) -> set[tuple[str, str]]:
    """(stage, key) of the steps that a person took as current though other code had made them (`--keep`)."""
    entries = {
        (link.stage, link.key)
        for step in chain.steps
        if step.manifest is not None
        for link in step.inputs.values()
        if link.stage in step.manifest.kept
    }
    return (entries | kept.links(store)) & {(step.link.stage, step.link.key) for step in chain.steps}


# ---- verification


def verify(
    chain: Chain,
    store: Store,
    *,
    stages: Mapping[str, Stage],
    models: Callable[[str], ModelFiles | None],
    corpus: Callable[[], str] | None = None,
) -> list[Finding]:
    """Recomputes every digest of the chain from the bytes on this disk; what holds is not mentioned.

    Args:
        stages: the stages as they are in this installation, to tell whether their code has changed.
        models: the files of a role (`base`, `embedder`) on this machine, None where they are not here.
        corpus: the digest of the corpus as it is now.
    """
    findings = [finding for step in chain.steps for finding in _verify_step(step, store, stages, models)]
    findings += _verify_contract(chain)
    first = next((step for step in chain.steps if "corpus" in step.outside), None)
    if corpus is not None and first is not None and corpus() != chain_corpus(chain):
        findings.append(Finding("corpus", "the documents have changed since this adapter was made", False))
    return findings


def chain_corpus(chain: Chain) -> str | None:
    """The digest of the corpus snapshot that the adapter's own ingest read."""
    step = chain.step("ingest")
    return step.outside.get("corpus") if step else None


def _verify_step(
    step: Step, store: Store, stages: Mapping[str, Stage], models: Callable[[str], ModelFiles | None]
) -> Iterator[Finding]:
    manifest, name = step.manifest, step.name
    if manifest is None:
        yield Finding(name, "is not in the store any more: it cannot be checked", True)
        return
    try:
        store.verify(manifest, deep=True)
    except (Damage, OSError) as error:
        yield Finding(name, str(error), True)
    if manifest.digest != step.link.digest:
        yield Finding(name, f"holds {manifest.digest[:12]}, but {step.link.digest[:12]} was built on", True)
    facts = manifest.ingredients
    if key_of(facts) != manifest.key:
        yield Finding(name, "its key does not follow from what the manifest says it was made from", True)
    for role, link in step.inputs.items():
        if facts.get("inputs", {}).get(role) != link.digest:
            yield Finding(name, f"its input {role} is not the one in its key", True)
    for role, digest in facts.get("models", {}).items():
        files = models(role)
        if files is None:
            yield Finding(name, f"model {role} is not on this machine: its weights were not checked", False)
        elif files.digest != digest:
            yield Finding(name, f"model {role} here is {files.digest[:12]}, it was made with {digest[:12]}", True)
    if declared := stages.get(manifest.stage):
        yield from _freshness(name, facts, declared)


def _freshness(name: str, facts: Mapping[str, Any], declared: Stage) -> Iterator[Finding]:
    code = declared.code()
    changed = sorted(m for m in {*code, *facts.get("code", {})} if code.get(m) != facts.get("code", {}).get(m))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        yield Finding(name, f"the code has changed since: {', '.join(changed[:3])}{more}", False)
    versions = declared.versions()
    for package, version in facts.get("packages", {}).items():
        if package in versions and versions[package] != version:
            yield Finding(name, f"{package} was {version} and is {versions[package]} here", False)


def _verify_contract(chain: Chain) -> Iterator[Finding]:
    """raft.json travels with the adapter: what it says of the lineage must be what the store says."""
    claims = chain.contract.get("lineage", {})
    if not claims:
        yield Finding("export", f"{CONTRACT} is missing or tells no lineage", True)
    for stage, digest in claims.items():
        step = chain.step(stage)
        if step is None or step.link.digest != digest:
            yield Finding(f"export/{chain.export.key[:8]}", f"{CONTRACT} names another {stage} ({digest[:12]})", True)
