"""What our libraries and their rooms offer: every name works, and a face by itself costs nothing."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.build.keys import code_fingerprint, packages_behind

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("data", "retrieval", "jora_engine")
FACES = sorted(
    ".".join(stub.parent.relative_to(ROOT).parts) for top in LIBRARIES for stub in (ROOT / top).rglob("__init__.pyi")
)
USED_OUTSIDE = {
    "data.loading": ("load_corpus", "LoadOptions", "corpus_report"),
    "data.chunking": ("ChunkOptions", "chunk_documents", "Chunk"),
    "data.questions": ("Question", "Quote"),
    "data.nouns": ("digest", "text_sha256"),
    "data.records": ("RecordOptions", "compose_records"),
    "data.evaluation": ("score_row",),
}
"""Names that code outside this project uses, from `data` and from their room."""


def offered(face: str) -> list[str]:
    return importlib.import_module(face).__all__


def python(program: str, *arguments: str, folder: Path = ROOT) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{program}", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_library_and_each_of_their_rooms_has_a_face():
    rooms = {"text", "loading", "chunking", "prompting", "teachers", "questions", "records", "evaluation", "reports"}
    assert {*LIBRARIES, *(f"data.{room}" for room in rooms)} <= set(FACES)
    assert {"retrieval.embedding", "retrieval.index", "retrieval.stores"} <= set(FACES)


@pytest.mark.parametrize("face", FACES)
def test_every_offered_name_is_there_and_listed(face):
    package = importlib.import_module(face)
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("face", FACES)
def test_no_offered_name_is_that_of_a_module_which_would_take_its_place(face):
    folder = ROOT / face.replace(".", "/")
    assert not set(offered(face)) & {path.stem for path in folder.iterdir()}


@pytest.mark.parametrize("room", USED_OUTSIDE)
def test_names_that_others_use_are_the_same_from_data_and_from_their_room(room):
    for name in USED_OUTSIDE[room]:
        assert getattr(importlib.import_module("data"), name) is getattr(importlib.import_module(room), name)
        assert name in offered("data")


def test_a_name_that_is_not_offered_is_refused_as_python_does():
    with pytest.raises(ImportError, match="cannot import name 'load_corpse' from 'data'"):
        exec("from data import load_corpse")
    assert not hasattr(importlib.import_module("retrieval"), "load_corpus")


def test_importing_every_face_imports_none_of_the_modules_behind_it():
    program = (
        "import importlib, json; [importlib.import_module(f) for f in sys.argv[1:]]; print(json.dumps([*sys.modules]))"
    )
    loaded = set(json.loads(python(program, *FACES)))
    assert {name for name in loaded if name.split(".")[0] in LIBRARIES} == set(FACES)
    assert not loaded & {"numpy", "jax", "torch", "faiss", "pydantic"}


@pytest.mark.slow
def test_the_engine_s_face_works_where_there_is_nothing_but_the_engine(tmp_path):
    shutil.copytree(ROOT / "jora_engine", tmp_path / "jora_engine", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("raft_errors.py", "raft_names.py"):
        shutil.copy(ROOT / file, tmp_path)
    program = """
ABSENT = ("data", "retrieval", "tasks", "flows", "torch", "transformers", "pydantic", "prefect")
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import jora_engine
assert jora_engine.__file__.startswith(sys.argv[1]) and "jax" not in sys.modules
from jora_engine import *
print(Generator.__name__, Job.__name__, fine_tune.__name__)
"""
    assert python(program, str(tmp_path), folder=tmp_path) == "Generator Job fine_tune\n"


@pytest.mark.parametrize("face", FACES)
def test_a_face_adds_its_own_file_alone_to_what_decides_a_stage_s_result(face):
    parts = face.split(".")
    above = {".".join(parts[: i + 1]) for i in range(len(parts))}
    assert code_fingerprint(face).keys() <= above


@pytest.mark.slow
def test_our_own_code_imports_from_the_modules_so_that_keys_see_what_it_uses():
    names = {face: set(offered(face)) for face in FACES}
    through = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for top in (*LIBRARIES, "tasks", "flows")
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and {alias.name for alias in node.names} & names.keys())
        or (
            isinstance(node, ast.ImportFrom)
            and {alias.name for alias in node.names} & (names.get(node.module or "", set()) | {"*"})
        )
    ]
    assert through == []


def test_a_release_of_ours_that_changes_no_code_makes_nothing_anew():
    assert packages_behind("data", "retrieval", "jora_engine") == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_guide_says_what_each_name_of_a_library_is(library):
    page = (ROOT / "docs" / "python.md").read_text()
    rows = page.split(f"## {library}\n")[1].split("\n## ")[0].split("\n|---|---|\n")[1]
    named = {
        name for row in rows.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert named == set(offered(library))


@pytest.mark.parametrize("module", ["raft_errors", "raft_names"])
def test_a_top_level_module_brings_no_files_of_the_rooms_beside_it(module):
    assert code_fingerprint(module).keys() == {module}
