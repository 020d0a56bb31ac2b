"""Who answers in an evaluation: the base, its new adapter, and earlier adapters of the same base and prompt.

An adapter that was trained on another base or for another prompt would lose for the wrong reason, so it is refused,
and the message says what differs. Knows nothing of questions and scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.prompting.contract import chat_of
from raft_errors import BadInput
from tasks.runtime.folders import ModelFolder, read_json

MUST_AGREE = ("template_version", "may_refuse", "begin_quote", "end_quote", "answer_marker", "refusal", "citation")


@dataclass(frozen=True)
class Contender:
    """`name` is the condition of its rows; `digest` stands for its weights, `precision` is how its base is held."""

    name: str
    adapter: Path | None
    digest: str
    precision: str = "bfloat16"


def contenders(
    base: ModelFolder, adapter: Path, adapter_digest: str, contract: Mapping[str, Any], earlier: Sequence[str]
) -> list[Contender]:
    """The base, held as the new adapter's was in training, the new adapter and the earlier ones, in that order.

    Args:
        adapter_digest: of the new adapter's weights.
        contract: the prompt contract of this evaluation.
        earlier: PEFT folders, or folders with one in `adapter/` (an export). Their rows are named after the folder.

    Raises:
        BadInput: an earlier adapter is none, or was more than plain LoRA, or made for another base or prompt.
    """
    from jora_engine.adapters.peft_folder import precision_of, read_adapter_config

    precision = precision_of(adapter)
    entrants = [
        Contender("base", None, base.digest, precision),
        Contender("adapter", adapter, f"{base.digest}+{adapter_digest}", precision),
    ]
    for text in earlier:
        folder = Path(text)
        place = folder / "adapter" if (folder / "adapter" / "adapter_config.json").is_file() else folder
        if not (place / "adapter_config.json").is_file():
            raise BadInput(
                f"evaluate.earlier: {folder} holds no adapter",
                expected="a PEFT folder with adapter_config.json, or an export with one in adapter/",
                do="correct the path",
            )
        read_adapter_config(place)  # before the first answer, not when its turn comes
        check_serving(place, contract, adapter)
        names = {c.name for c in entrants}
        name = folder.name if folder.name not in names else f"{folder.parent.name}/{folder.name}"
        if name in names:
            name = f"{name} ({len(entrants)})"
        entrants.append(Contender(name, place, f"{base.digest}+{_weights_sha256(place)}", precision_of(place)))
    return entrants


def _weights_sha256(folder: Path) -> str:
    """One sha256 over an adapter's weights and configuration."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.name.startswith("adapter_") and p.is_file()):
        with path.open("rb") as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def check_serving(folder: Path, contract: Mapping[str, Any], like: Path) -> None:
    """Compares the adapter's raft.json with the prompt contract in use, and its base with that of the adapter `like`.

    A PEFT folder without raft.json says nothing about prompt and base; the engine then checks shapes alone.
    """
    if not (folder / "raft.json").is_file():
        return
    serving, ours = read_json(folder / "raft.json"), read_json(like / "raft.json")
    differences = []
    for key in ("base_model", "base_digest"):
        if serving.get(key) != ours.get(key):
            differences.append(f"{key}: {_short(serving.get(key))}, here {_short(ours.get(key))}")
    if any(line.startswith("base_digest") for line in differences):
        raise BadInput(
            f"The adapter {folder} was made for another base model ({'; '.join(differences)})",
            expected="an adapter of the base model that is evaluated",
            do="leave it out of evaluate.earlier, or evaluate it with its own base",
        )
    prompt = serving.get("prompt", {})
    differences = [
        f"{key}: {_short(prompt.get(key))}, here {_short(contract.get(key))}"
        for key in MUST_AGREE
        if prompt.get(key) != contract.get(key)
    ]
    theirs, here = chat_of(prompt), chat_of(contract)
    if theirs != here:
        differences.append(f"chat template: {_short(theirs)}, here {_short(here)}")
    if differences:
        raise BadInput(
            f"The adapter {folder} was trained for another prompt ({'; '.join(differences)})",
            expected="the prompt contract of this run, so that like is compared with like",
            do="leave it out of evaluate.earlier, or ask as it was asked (records.template, models.chat_template)",
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:16] + "..."
