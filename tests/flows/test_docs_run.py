"""What README and docs tell people to type works: on a finished project in miniature, block by block.

A block that is not run here says why (doc_blocks.py). What a page takes for granted (a configuration of a name, a file
of questions, a value that the text calls `messages`) is made before its first block.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from doc_blocks import Block, blocks

from data.nouns import Chunk, Record, digest, read_jsonl, text_sha256, write_jsonl

pytestmark = pytest.mark.slow

ENDINGS = {"retrain": (0, 3, 4), "rollback": (0, 3, 4)}  # held or rejected, and rolled back, are no failures
BLOCKS = list(blocks())


def pages(kind: Callable[[Block], object]) -> dict[str, list[Block]]:
    """Blocks that are run, by page."""
    names = dict.fromkeys(block.page.name for block in BLOCKS if kind(block) and not block.not_run)
    return {name: [b for b in BLOCKS if b.page.name == name and kind(b) and not b.not_run] for name in names}


COMMANDS = pages(lambda block: block.commands)
PYTHON = pages(lambda block: block.language == "python")


def wide_but_the_readme(names) -> list:
    return [name if name == "README.md" else pytest.param(name, marks=pytest.mark.wide) for name in names]


# ---- commands


@pytest.fixture
def typed(warm):
    """A project whose folder holds what the pages speak of."""
    (warm.folder / "law.yaml").write_text(warm.config.read_text())
    rows = {**warm.values["train"], "micro_batch_rows": 8}  # for eight devices
    (warm.folder / "my.yaml").write_text(yaml.safe_dump({**warm.values, "train": rows}))
    return warm


def own_documents(project) -> None:
    """Documents in the project's own folder, read up to the index."""
    documents = project.folder / "documents"
    shutil.copytree(project.domain / "docs", documents)
    for name in ("handbook/leave.md", "minutes/2019-1.md"):
        (documents / name).parent.mkdir()
        (documents / name).write_text(f"# {name}\n\nWhoever wants a day of leave asks before noon.\n")
    project.values["corpus"] = [str(documents)]
    project.write()
    project.raft("index", "--no-prefect")


def before(project, page: str) -> None:
    """What a page's commands need beside a finished run."""
    if page == "lineage.md":
        project.raft("promote", "--reason", "the first")
    elif page == "records.md":
        project.raft("records", "--no-prefect", "--set", "records.distractors=1")
    elif page == "your_documents.md":
        own_documents(project)
    elif page == "retrieval.md":
        data = project.folder / "my-set"
        (data / "qrels").mkdir(parents=True)
        rows = {
            "corpus": {"_id": "d", "title": "A mill", "text": "The mill."},
            "queries": {"_id": "q", "text": "mill?"},
        }
        for name, row in rows.items():
            (data / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")


def run(project, command: list[str]) -> None:
    """Runs one command as a user would in the project's folder."""
    program, verb, *_ = command
    assert program == "raft", f"{command}: say why it is not run"
    if verb == "init":  # of a folder that has none yet; then the user writes what is theirs
        project.config.unlink()
    elif verb == "forget":
        if not (project.folder / "documents").exists():
            own_documents(project)
        if "--yes" in command:  # it refuses what the next run would read again
            shutil.rmtree(project.folder / "documents" / Path(command[2]).parent)
    if verb in ("run", "retrain") and "--no-prefect" not in command:
        command = [*command, "--no-prefect"]
    done = project.raft(*command[1:], check=False)
    assert done.returncode in ENDINGS.get(verb, (0,)), (command, done.stdout, done.stderr)
    if verb == "init":
        assert yaml.safe_load(project.config.read_text())
        project.write()


@pytest.mark.parametrize("page", wide_but_the_readme(COMMANDS))
def test_the_commands_of_a_page_work(page, typed):
    before(typed, page)
    for block in COMMANDS[page]:
        for command in block.commands:
            run(typed, command)


# ---- Python


@pytest.fixture
def shelf(finished, domain, tmp_path, monkeypatch) -> SimpleNamespace:
    """A folder with the models and files that the pages name, and what the text calls by a name."""
    project, _ = finished
    folders = {row["stage"]: Path(row["folder"]) for row in project.json("run")["stages"]}
    for name, target in {
        "adapter": folders["export"] / "adapter",
        "merged": folders["export"] / "merged",
        "smollm2": domain / "base",
        "all-MiniLM-L6-v2": domain / "embedder",
        "embedder": domain / "embedder",
        "docs": domain / "docs",
        "questions.jsonl": domain / "questions.jsonl",
    }.items():
        (tmp_path / name).symlink_to(target)
    chunks = list(read_jsonl(folders["chunk"] / "chunks.jsonl", Chunk))
    words = "What yield does is to give a value."
    sha = text_sha256(words)
    chunks.append(Chunk(digest("y", "0", words), digest("y"), 0, words, 0, len(words), 9, sha, "pydoc:yield", "yield"))
    write_jsonl(tmp_path / "chunks.jsonl", chunks)
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(folders=folders, chunks=chunks, folder=tmp_path)


def consumers(shelf) -> dict[str, Any]:
    record = next(read_jsonl(shelf.folders["records"] / "test.jsonl", Record))
    return {
        "messages": record.prompt,
        "question": "Who opens the gates of Birch?",
        "found": [("Birch", "In Birch the gates are opened by the smith.")] * 3,
        "reply": record.output,
        "prompt": tokens(shelf, record),
    }


def tokens(shelf, record: Record):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shelf.folder / "merged")
    shown = tokenizer.apply_chat_template(
        record.prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return shown["input_ids"]


def evaluation(shelf) -> dict[str, Any]:
    from data.nouns import Hit

    record = next(read_jsonl(shelf.folders["records"] / "test.jsonl", Record))
    hits = [Hit(chunk.id, rank, 1 / rank) for rank, chunk in enumerate(shelf.chunks[:6], 1)]
    lines = (shelf.folders["evaluate"] / "rows.jsonl").read_text().splitlines()
    return {
        "base_scores": [0.0, 0.5, 0.0, 1.0],
        "adapter_scores": [0.5, 0.5, 1.0, 1.0],
        "document_ids": ["a", "a", "b", "c"],
        "record": record,
        "hits": hits,
        "chunks_by_id": {chunk.id: chunk for chunk in shelf.chunks},
        "text": record.output,
        "rows": [json.loads(line) for line in lines],
        "path": shelf.folder / "report.html",
    }


def records(shelf) -> dict[str, Any]:
    from data.questions.importing import import_questions
    from jora_engine.files.tokenizer import Tokenizer
    from retrieval.mining import mine_distractors
    from retrieval.search import Retriever

    search = Retriever(None, None, shelf.chunks, mode="lexical").search
    asked = import_questions(Path("questions.jsonl"), shelf.chunks, search).questions
    mined = mine_distractors(asked, shelf.chunks, search, count=6, seed=0)
    tokenizer = Tokenizer.load(Path("smollm2"))
    return {"chunks": shelf.chunks, "questions": asked, "distractors": mined, "tokenizer": tokenizer}


NAMES: dict[str, Callable[[SimpleNamespace], dict[str, Any]]] = {
    "consumers.md": consumers,
    "evaluation.md": evaluation,
    "records.md": records,
}


@pytest.mark.parametrize("page", wide_but_the_readme(PYTHON))
def test_the_python_of_a_page_runs(page, shelf):
    names = NAMES[page](shelf) if page in NAMES else {}
    for block in PYTHON[page]:
        exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)
    if page == "python.md":
        assert "asked" in names
        assert isinstance(names["retriever"].cite(names["hits"][0]).source, str)


def test_every_block_of_commands_or_python_is_run_or_says_why_not():
    told = [block.place for block in BLOCKS if block.not_run and not (block.commands or block.language == "python")]
    assert told == []  # a mark before a block that nobody would run is a mistake
    assert len(COMMANDS) >= 7
    assert len(PYTHON) >= 5
