"""A file of several domains: what they have in common is written once, and each has its own values on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_errors import BadInput
from tasks.config import RunConfig, config_of, load_config, read_yaml


def read_configs(file: Path | None, overrides: Sequence[str], only: Sequence[str]) -> dict[str, RunConfig]:
    """The configuration of a file, or each one of a file of domains, by name.

    Raises:
        BadInput: a choice of domains was given without such a file, or overrides with one.
    """
    if file is None or not is_domains_file(file):
        if only:
            raise BadInput("--only is for a file of domains", do="leave it out, or give such a file")
        config = load_config(file, overrides)
        return {config.name: config}
    if overrides:
        raise BadInput("--set is for one configuration", do=f"write it under `common` or a domain of {file}")
    return read_domains(file, list(only))


def is_domains_file(file: Path) -> bool:
    """Whether a YAML file holds domains and not one configuration."""
    return "domains" in read_yaml(file)


def read_domains(file: Path, only: list[str]) -> dict[str, RunConfig]:
    """The configuration of each domain: the common part with its own values on top, named after the domain.

    Raises:
        BadInput: the file has no domains or not those of `only`, a name stands twice, or the values make no valid
            configuration.
    """
    values = read_yaml(file)
    unknown = sorted(values.keys() - {"common", "domains"})
    sections = values.get("domains")
    if unknown or not isinstance(sections, dict) or not sections:
        raise BadInput(
            f"{file}: " + (f"unknown key {unknown[0]}" if unknown else "there is no domain"),
            expected="`common:` (any part of a raft.yaml) and `domains:` (NAME: its own values)",
            do="see docs/scheduling.md",
        )
    names = [str(name) for name in sections]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            f"{file} has two domains of the name {twice[0]!r}",
            expected="one of each name",  # 7 and "7" are two keys of YAML
            do="give one of them another name",
        )
    if absent := sorted(set(only) - set(names)):
        raise BadInput(f"{file} has no domain {absent[0]!r}", expected=f"one of {', '.join(names)}")
    parts = {"common": values.get("common"), **{f"domain {name}": own for name, own in sections.items()}}
    if wrong := next((part for part, own in parts.items() if not isinstance(own, dict | None)), None):
        raise BadInput(
            f"{file}: {wrong} is a {type(parts[wrong]).__name__}",
            expected="parts of a raft.yaml (field: value), not the name of a file",
            do="write its own values there, such as `corpus: [./docs]`",
        )
    configs = {}
    for name, own in zip(names, sections.values(), strict=True):
        if only and name not in only:
            continue
        whole = merge(values.get("common") or {}, own or {})
        configs[name] = config_of({**whole, "name": name}, f"{file}, domain {name}", file.parent)
    return configs


def merge(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `common`, section by section."""
    result = dict(common)
    for name, value in own.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merge(result[name], value) if both else value
    return result
