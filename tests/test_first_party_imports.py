"""Every import of one of our own modules leads to a file and a name in it, also those inside functions.

mypy passes over modules that it does not find, and a run meets an import inside a function only when it gets there.
Everything is read and nothing is imported, so this takes a few seconds.
"""

import ast
import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from raft_names import NAMES

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = sorted(p.stem for p in ROOT.glob("*.py"))
PLACES = (*NAMES, "benchmarks", "examples", "tests")
FILES = [
    *ROOT.glob("*.py"),
    *(f for place in PLACES for f in (ROOT / place).rglob("*.py*") if f.suffix in (".py", ".pyi")),
]


def is_ours(module: str) -> bool:
    return module.split(".")[0] in (*NAMES, *TOP_LEVEL)


def file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def definitions(body: list[ast.stmt]) -> Iterator[str]:
    """The names that statements at the top of a module bind, those under `if`, `try` and `with` included."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        else:
            children = list(ast.iter_child_nodes(node))
            inner = [child for child in children if isinstance(child, ast.stmt)]
            inner += [
                s for child in children if isinstance(child, ast.ExceptHandler | ast.match_case) for s in child.body
            ]
            yield from definitions(inner)
            yield from (
                name.id for name in ast.walk(node) if isinstance(name, ast.Name) and not isinstance(name.ctx, ast.Load)
            )


@functools.cache
def names_in(module: str) -> frozenset[str]:
    """What can be imported from a module: its own names, its submodules, and what its face offers lazily."""
    file = file_of(module)
    assert file is not None
    names = set(definitions(ast.parse(file.read_text(encoding="utf-8")).body))
    if file.name == "__init__.py":
        names |= {p.stem for p in file.parent.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
        if (face := file.with_suffix(".pyi")).is_file():
            names |= set(definitions(ast.parse(face.read_text(encoding="utf-8")).body))
    return frozenset(names)


def unresolved(source: str) -> list[str]:
    """The imports of our own modules in a source text that lead nowhere."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            faults += [f"import {a.name}" for a in node.names if is_ours(a.name) and file_of(a.name) is None]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and is_ours(node.module):
            if file_of(node.module) is None:
                faults.append(f"from {node.module} import ...")
            else:
                lost = [a.name for a in node.names if a.name != "*" and a.name not in names_in(node.module)]
                faults += [f"from {node.module} import {name}" for name in lost]
    return faults


@pytest.mark.slow
def test_every_import_of_our_own_leads_to_a_module_and_a_name():
    faults = {str(f.relative_to(ROOT)): unresolved(f.read_text(encoding="utf-8")) for f in FILES}
    assert {file: lines for file, lines in faults.items() if lines} == {}


def test_imports_in_the_docs_lead_somewhere():
    blocks = {
        (file.name, text): unresolved(text)
        for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
        for text in re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    }
    assert len(blocks) > 5
    assert {place: lines for place, lines in blocks.items() if lines} == {}


def modules_in_strings(source: str) -> Iterator[str]:
    """Modules that a text starts as a process: those after `-m`, and the first argument of `run_child`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple):
            words = [n.value if isinstance(n, ast.Constant) else None for n in node.elts]
            yield from (str(word) for flag, word in pairwise(words) if flag == "-m" and word)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("run_child") and node.args:
            yield from (n.value for n in node.args[:1] if isinstance(n, ast.Constant) and isinstance(n.value, str))


@pytest.mark.slow
def test_modules_that_are_started_as_processes_exist():
    names = {name for file in FILES for name in modules_in_strings(file.read_text(encoding="utf-8")) if is_ours(name)}
    assert names >= {"tasks.runtime.parity", "jora_engine.trainer", "flows.cli"}
    assert [name for name in sorted(names) if file_of(name) is None] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("from data.nouns import Chunk", None),
        ("from data import chunk_documents", None),  # a lazy name of the room
        ("from tasks.store import share", None),  # a submodule
        ("import tasks.store.share", None),
        ("from raft_errors import BadInput", None),
        ("from somebody.elses import module", None),
        ("from data.nouns import Chunck", "from data.nouns import Chunck"),
        ("from tasks.keys import key_of", "from tasks.keys import ..."),
        ("import tasks.keys", "import tasks.keys"),
        ("def late():\n    from data.records.splits import Froze", "from data.records.splits import Froze"),
    ],
)
def test_what_leads_nowhere_is_named(line, fault):
    assert unresolved(line) == ([fault] if fault else [])
