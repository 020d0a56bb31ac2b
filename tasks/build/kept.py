"""Finished results that are taken as current although they are not what is asked for: a person's choice where other
code made them (`--keep`), a night's where its retriever was fitted on an earlier corpus.

Nothing is copied or made anew: `<store>/kept/STAGE/KEY.json` says that for KEY, which today's code asks for, the result
of an older key is to be taken. What is built on it follows its content digest, as always. With `--keep`, only code and
the versions of libraries may differ; inputs, settings, models and seed must be the same.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raft_errors import BadInput
from tasks.build.keys import result_fields
from tasks.build.packages import normal
from tasks.store.access import make_folder, write_whole
from tasks.store.hashing import read_regular
from tasks.store.manifest import MANIFEST, Link, Manifest
from tasks.store.store import Store

if TYPE_CHECKING:
    from tasks.build.stage import Request

ALL, NONE = "all", "none"
UNKNOWN = "unknown"
"""The digest of an input that is not built yet."""


@dataclass(frozen=True)
class Differences:
    """What differs between what is asked for and a result, in words.

    Attributes:
        choices: what a person chose or what came in: inputs, settings, models, seed.
        installation: what came with it: code, libraries, settings that are new and stand at their default.
    """

    choices: tuple[str, ...]
    installation: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return [*self.choices, *self.installation]


class Kept(BaseModel):
    """What is taken in place of a result that was never built.

    Attributes:
        at: when that was asked for.
        differs: what is other than today, in words.
    """

    model_config = ConfigDict(frozen=True)
    link: Link
    at: str
    differs: tuple[str, ...] = ()


def differences(request: Request, manifest: Manifest, now: Mapping[str, Any] | None = None) -> Differences:
    """Compares what is asked for with what a result was made from; inputs that are not known yet are passed over.

    Args:
        now: the request's ingredients, where they are known already.
    """
    now, then = now or request.ingredients(), manifest.ingredients
    choices: list[str] = []
    installation: list[str] = []
    earlier = then.get("inputs", {})
    for name in _differing(earlier, {**earlier, **now["inputs"]}):
        if now["inputs"][name] != UNKNOWN:
            choices.append(f"input {name} changed")
    choices += [f"input {name} is not given" for name in sorted(earlier.keys() - now["inputs"].keys())]
    sections = {f"{request.stage.name}.": (then.get("config", {}), now["config"], request.config)}
    shared = then.get("shared", {})
    for name, section in now["shared"].items():
        if name in shared:
            sections[f"{name}."] = (shared[name], section, request.shared[name])
        else:  # the code of then did not read it, so what it holds was chosen for other stages
            installation.append(f"the section {name} is read as well")
    for prefix, (old, new, section) in sections.items():
        settings = setting_differences(old, section, new, prefix=prefix)
        choices += settings.choices
        installation += settings.installation
    choices += [f"model {name} changed" for name in _differing(then.get("models", {}), now["models"])]
    if now["seed"] != then.get("seed"):
        choices.append(f"seed: {then.get('seed')} → {now['seed']}")
    return Differences(tuple(choices), (*installation, *made_otherwise(then, now)))


def setting_differences(
    then: Mapping[str, Any], section: BaseModel, now: Mapping[str, Any] | None = None, *, prefix: str = ""
) -> Differences:
    """Compares a section with what a result was made with; a setting that is newer than the result and stands at its
    default came with the installation, and nobody chose it; nor did anybody choose that a setting no longer counts."""
    now = result_fields(section) if now is None else now
    choices: list[str] = []
    installation: list[str] = []
    for name in _differing(then, now):
        words = _change(prefix + name, then.get(name), now.get(name))
        with_release = name not in now or (name not in then and _at_default(section, name))
        (installation if with_release else choices).append(words)
    return Differences(tuple(choices), tuple(installation))


def made_otherwise(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of code, libraries and a stage's version differs between two lists of ingredients, in words."""
    words: list[str] = []
    if code := _differing(then.get("code", {}), now["code"]):
        words.append("code of " + ", ".join(code[:3]) + (f" and {len(code) - 3} more" if len(code) > 3 else ""))
    before = {normal(name): version for name, version in then.get("packages", {}).items()}
    words += [f"{n}: {before.get(n)} → {now['packages'].get(n)}" for n in _differing(before, now["packages"])]
    if now["version"] != then.get("version"):
        words.append(f"stage version: {then.get('version')} → {now['version']}")
    return words


def fitting(request: Request, store: Store) -> Manifest | None:
    """The newest finished result, whole in the store, that differs from what is asked for in nothing but its making."""
    now = request.ingredients()
    for manifest in store.manifests(request.stage.name):
        if not differences(request, manifest, now).choices and store.load(manifest.stage, manifest.key):
            return manifest
    return None


def current(store: Store, stage: str, key: str) -> Manifest | None:
    """The result that a person has taken for this key, if it is whole."""
    try:
        kept = Kept.model_validate_json(read_regular(_place(store, stage, key)))
    except (OSError, ValidationError):
        return None
    manifest = store.load(kept.link.stage, kept.link.key)
    if manifest is None or manifest.digest != kept.link.digest:
        return None
    manifest._kept = kept.differs
    return manifest


def take(request: Request, store: Store, keep: Collection[str]) -> Manifest | None:
    """The result that takes the place of one that is not built, where there is one.

    Args:
        keep: names of the stages whose finished result is to be taken, though other code made it; `all` for those that
            have one; `none` to give up what was taken earlier.
    Raises:
        BadInput: a stage is named, and no finished result of it differs in its making alone.
    """
    name, key = request.stage.name, request.key()
    if NONE in keep:
        _place(store, name, key).unlink(missing_ok=True)
    if store.load(name, key):
        return None
    if manifest := current(store, name, key):
        return manifest
    if not {name, ALL} & {*keep}:
        return None
    manifest = fitting(request, store)
    if manifest is None:
        if name in keep:
            raise nothing_to_keep(request, store)
        return None
    accept(request, manifest, store, differences(request, manifest).installation)
    return manifest


def accept(request: Request, manifest: Manifest, store: Store, differs: tuple[str, ...]) -> None:
    """From now on this result is taken for what is asked for; `differs` says what is other, in words."""
    kept = Kept(
        link=manifest.link, at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), differs=differs
    )
    place = _place(store, request.stage.name, request.key())
    make_folder(place.parent)
    write_whole(place, kept.model_dump_json(indent=1).encode() + b"\n")
    manifest._kept = differs


def give_up(request: Request, store: Store) -> None:
    """What was taken for this request counts no more: it is built."""
    _place(store, request.stage.name, request.key()).unlink(missing_ok=True)


def require_finished(keep: Collection[str], store: Store) -> None:
    """Raises BadInput where a stage is named of which the store holds no result at all."""
    finished = {manifest.stage for manifest in store.manifests()}
    for name in sorted({*keep} - {ALL, NONE} - finished):
        raise BadInput(
            f"--keep {name}: there is no finished result of {name} in {store.root}",
            expected=f"a stage that has one: {', '.join(sorted(finished))}" if finished else "a finished run",
            do=f"run without --keep {name}",
        )


def nothing_to_keep(request: Request, store: Store) -> BadInput:
    """Why no result of a stage can be kept: what the nearest one differs in."""
    name = request.stage.name
    finished = store.manifests(name)
    now = request.ingredients()
    apart = [(len(differences(request, m, now).choices), n) for n, m in enumerate(finished)]
    nearest = finished[min(apart)[1]]
    choices = differences(request, nearest, now).choices
    wrong = "; ".join(choices) or store.inspect(nearest.stage, nearest.key)[1]
    return BadInput(
        f"--keep {name}: the result of {day(nearest)} cannot be kept, as more than the code differs: {wrong}"
        if choices
        else f"--keep {name}: the result of {day(nearest)} is damaged: {wrong}",
        expected="the same inputs, settings, models and seed",
        do=f"set them as they were, or run without --keep {name}",
    )


def day(manifest: Manifest) -> str:
    """When a result was published."""
    moment = (manifest.folder / MANIFEST).stat().st_mtime
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(timespec="minutes")[:16].replace("T", " ")


def behind(parents: Collection[Manifest], store: Store) -> list[str]:
    """The stages among the given results and all they were built from that were taken though other code made them."""
    names = {manifest.stage for manifest in parents if manifest._kept}
    seen: set[tuple[str, str]] = set()
    queue = list(parents)
    while queue:
        manifest = queue.pop()
        names.update(manifest.kept)
        for link in manifest.lineage.values():
            if (link.stage, link.key) not in seen:
                seen.add((link.stage, link.key))
                queue += [m for m in [store.read(link.stage, link.key)] if m]
    return sorted(names)


def links(store: Store) -> set[tuple[str, str]]:
    """(stage, key) of every result that is taken for another key."""
    entries = set()
    for path in (store.root / "kept").glob("*/*.json"):
        try:
            link = Kept.model_validate_json(read_regular(path)).link
        except (OSError, ValidationError):
            continue
        entries.add((link.stage, link.key))
    return entries


def _place(store: Store, stage: str, key: str) -> Path:
    return store.root / "kept" / stage / f"{key}.json"


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(n for n in {*then, *now} if then.get(n) != now.get(n))


def _change(name: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and "sha256" in old and isinstance(new, Mapping):
        return f"{name}: the file's content changed"
    return f"{name}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    """A setting as a configuration has it; a file, which counts by its bytes, as a file."""
    if isinstance(value, Mapping) and "sha256" in value:
        return "a file"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(one) for one in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _at_default(section: BaseModel, name: str) -> bool:
    """Whether a setting has the value that nobody chose."""
    info = type(section).model_fields.get(name)
    if info is None or info.is_required():
        return False
    default = section.model_copy(update={name: info.get_default(call_default_factory=True)})
    return result_fields(default).get(name) == result_fields(section).get(name)
