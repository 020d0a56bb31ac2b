"""The smoke test after a promotion: does the promoted adapter load, answer, and pass the user's own command?

It looks at the adapter as a server does, through the pointer, and reads every byte again first.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from data.nouns import Record, read_jsonl
from data.prompting.contract import chat_of, parse_answer, template_from_contract, to_messages
from data.text.counts import counted
from raft_errors import BadInput, RaftError
from raft_names import environment_of_the_user
from tasks.adapters.policy import RetrainConfig
from tasks.adapters.registry import Registry
from tasks.adapters.versions import Version
from tasks.inputs.models import ModelFiles
from tasks.store.manifest import Damage, Manifest
from tasks.store.store import read_json

ANSWER_TOKENS = 48
LAST_LINES = 3


def smoke_test(registry: Registry, version: Version, base: ModelFiles, records: Manifest, config: RetrainConfig) -> str:
    """What passed, in words.

    Args:
        records: whose first test records are asked.
    Raises:
        RaftError: the files are damaged, the adapter does not load or answer, or the user's command failed.
    """
    link = version.stages["export"]
    manifest = registry.store.read(link.stage, link.key)
    if manifest is None:
        raise RaftError(f"version {version.number} is not in the store")
    try:
        registry.store.verify(manifest, deep=True)
    except Damage as error:
        raise RaftError(f"version {version.number} is damaged: {error}") from error
    adapter = registry.pointer / "adapter"
    questions = list(read_jsonl(records.path("test.jsonl"), Record))[: config.smoke_questions]
    count = _answers(base.folder, adapter, questions)
    if not count:
        raise RaftError(f"version {version.number} answered none of {counted(len(questions), 'test question')}")
    files, asked = counted(len(manifest.files), "file"), counted(len(questions), "question")
    results = [f"{files} read, {count} of {asked} answered"]
    if config.smoke_command:
        run_command(config.smoke_command, registry.pointer.resolve(), version.number, config.smoke_minutes * 60)
        results.append("the command of retrain.smoke_command passed")
    return "; ".join(results)


def _answers(base: Path, adapter: Path, records: list[Record]) -> int:
    """How many questions get a final answer."""
    from jora_engine.generation.generator import Generator

    contract = read_json(adapter / "raft.json")["prompt"]
    generator = Generator(base, adapter=adapter, max_rows=max(1, len(records)), chat=chat_of(contract))
    template = template_from_contract(contract)
    encode = generator.tokenizer.apply_chat_template
    prompts = [encode(to_messages(record), add_generation_prompt=True) for record in records]
    completions = generator.generate(prompts, max_new_tokens=ANSWER_TOKENS)
    return sum(bool(parse_answer(one.text, template=template).final_answer.strip()) for one in completions)


def require_command(command: str) -> None:
    """Sees that the user's test can be started.

    Raises:
        BadInput: it is empty, has an open quotation mark, wants a shell, or names no program.
    """
    words = _split(command)
    if marks := [word for word in words if word in _SHELL]:
        raise BadInput(
            f"retrain.smoke_command: {marks[0]} means nothing without a shell, and none is started: {command}",
            expected="a program and its arguments",
            do=f"put it into a script, or write: sh -c {shlex.quote(command)}",
        )
    if shutil.which(words[0], path=environment_of_the_user().get("PATH")) is None:
        there = Path(words[0]).is_file()
        raise BadInput(
            f"retrain.smoke_command: {words[0]} " + ("may not be executed" if there else "is no program here"),
            expected="a program on the PATH, or the path of one",
            do="make it executable (chmod +x), or start it by its interpreter" if there else "correct it",
        )


_SHELL = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1"})


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput(f"retrain.smoke_command cannot be read ({error}): {command}", do="correct it") from error
    if not words:
        raise BadInput("retrain.smoke_command is empty", do="name a program, or leave it out")
    return words


def run_command(command: str, export: Path, version: int, timeout_seconds: float) -> None:
    """Runs the user's test.

    Raises:
        RaftError: it cannot be started, ends with another code than 0, or takes too long.
    """
    environment = {
        **environment_of_the_user(),
        "RAFT_ADAPTER": str(export / "adapter"),
        "RAFT_MERGED": str(export / "merged"),
        "RAFT_VERSION": str(version),
    }
    try:
        process = subprocess.run(
            _split(command),
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",  # its words are for people, in whatever encoding it has
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RaftError(f"the smoke command took longer than {timeout_seconds / 60:g} minutes: {command}") from error
    except OSError as error:
        raise RaftError(f"the smoke command cannot be started ({error.strerror}): {command}") from error
    if process.returncode:
        output = "; ".join((process.stderr or process.stdout).strip().splitlines()[-LAST_LINES:])
        raise RaftError(f"the smoke command ended with {process.returncode}: {output or command}")
