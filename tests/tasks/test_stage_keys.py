"""Every stage's key follows from its work: all code that the work can reach, and every library that this code imports.

The closure is computed here a second time, by import-linter's own graph.
"""

import functools
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement

from flows.pipeline import STAGES
from tasks import gate, replay
from tasks.build import keys, packages
from tasks.build.packages import distribution_of, distributions_of, normal

ROOT = Path(__file__).resolve().parents[2]
ALL = {stage.name: stage for stage in (*STAGES, gate.STAGE, replay.STAGE)}
CHILDREN = {  # what stages start as processes of their own, which no import shows
    "ingest": "data.loading.worker",
    "train": "jora_engine.trainer",
    "export": "tasks.runtime.parity",
}


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "tasks", "data", "retrieval", "jora_engine", include_external_packages=True, cache_dir=None
    )


@functools.cache
def providers() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def is_machinery(name: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in keys.MACHINERY)


@functools.cache
def reachable(stage: str) -> tuple[set[str], set[str]]:
    """(our modules, libraries) behind a stage's work."""
    ours: set[str] = set()
    foreign: set[str] = set()
    queue = [ALL[stage].build.__module__, *([CHILDREN[stage]] if stage in CHILDREN else [])]
    while queue:
        name = queue.pop()
        if name.split(".")[0] not in keys.LIBRARIES:
            foreign.add(name.split(".")[0])
        elif name not in ours and not is_machinery(name) and name != "raft_errors":
            ours.add(name)
            queue += graph().find_modules_directly_imported_by(name)
    return ours, foreign - set(sys.stdlib_module_names)


@pytest.mark.parametrize("stage", ALL)
def test_every_module_that_the_work_can_reach_is_in_the_key(stage):
    assert reachable(stage)[0] <= ALL[stage].code().keys()


@pytest.mark.parametrize("stage", ALL)
def test_every_library_that_this_code_imports_is_in_the_key(stage):
    imported = {normal(name) for module in reachable(stage)[1] for name in providers().get(module, [module])}
    assert imported - packages.CARRIERS <= ALL[stage].versions().keys()


@pytest.mark.parametrize("stage", ["questions", "records", "evaluate", "gate"])
def test_what_finds_passages_decides_every_stage_that_searches(stage):
    code, versions = ALL[stage].code(), ALL[stage].versions()
    stores = {f"retrieval.stores.{name}_store" for name in ("faiss", "lance", "qdrant")}
    assert stores | {"retrieval.embedding.embedder"} <= code.keys()
    assert {"numpy", "torch", "transformers", "tokenizers", "sentence-transformers", "faiss-cpu", "bm25s"} <= set(
        versions
    )
    assert "absent" not in versions.values()


@pytest.mark.parametrize("stage", ["questions", "evaluate", "gate", "train", "export"])
def test_the_compiled_half_of_jax_counts_where_the_engine_computes(stage):
    assert {"jax", "jaxlib", "tokenizers"} <= ALL[stage].versions().keys()


@pytest.mark.parametrize("module", sorted({m for stage in ALL for m in reachable(stage)[1]}))
def test_an_imported_name_stands_for_what_is_installed(module):
    installed = {normal(name) for name in providers().get(module, [])}
    assert not installed or distribution_of(module) in installed


@pytest.mark.parametrize("library", sorted(packages.BEHIND))
def test_what_a_library_leaves_work_to_is_what_it_requires(library):
    required = {normal(Requirement(line).name) for line in importlib.metadata.requires(library) or ()}
    assert set(packages.BEHIND[library]) <= required
    assert set(packages.BEHIND[library]) <= set(distributions_of([library.replace("-", "_")]))


def test_machinery_is_what_it_says():
    """No module is excused that computes anything: none of them reaches the engine or the retriever by itself."""
    assert graph().modules >= keys.MACHINERY
    computing = {
        name: sorted(
            n
            for n in graph().find_modules_directly_imported_by(name)
            if n.split(".")[0] in ("jora_engine", "retrieval", "numpy", "jax", "torch")
        )
        for name in sorted(filter(is_machinery, graph().modules))
    }
    assert {name: found for name, found in computing.items() if found} == {
        "tasks.inputs.models": ["jora_engine.gguf"],  # a model is converted once, and then counts by its digest
        "tasks.build.origin": ["jora_engine.machine"],  # computes nothing
    }


EDITS = {
    "retrieval/embedding/embedder.py": {"embed", "questions", "records", "evaluate", "gate"},
    "retrieval/stores/faiss_store.py": {"questions", "records", "evaluate", "gate"},
    "retrieval/stores/lance_store.py": {"questions", "records", "evaluate", "gate"},
    "retrieval/stores/qdrant_store.py": {"questions", "records", "evaluate", "gate"},
    "tasks/runtime/retriever.py": {"questions", "records", "evaluate", "gate"},
    "tasks/runtime/answers.py": {"evaluate", "gate"},
    "tasks/runtime/contenders.py": {"evaluate", "gate"},
    "tasks/runtime/exam.py": {"evaluate", "gate"},
    "tasks/runtime/general_skills.py": {"evaluate"},
    "tasks/runtime/local_teacher.py": {"questions", "evaluate"},
    "tasks/runtime/parity.py": {"export"},
    "tasks/adapters/model_card.py": {"export"},
    "jora_engine/trainer.py": {"train"},
    "data/loading/worker.py": {"ingest"},
    "tasks/store/store.py": set(),
    "tasks/store/locks.py": set(),
    "tasks/store/share.py": set(),
    "tasks/build/supervisor.py": set(),
    "tasks/build/stage.py": set(),
}
"""File -> the stages whose results an edit in it may change."""


def test_an_edit_changes_the_keys_of_the_stages_whose_work_it_is_and_of_no_other(tmp_path):
    for folder in ("tasks", "data", "retrieval", "jora_engine", "flows"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("raft_errors.py", "raft_names.py"):
        shutil.copy(ROOT / file, tmp_path)
    program = """
import json, sys
from pathlib import Path
from flows.pipeline import STAGES
from tasks import gate, replay
from tasks.build import keys
assert Path(keys.__file__).is_relative_to(Path.cwd())
keys._kept_prints = lambda: (None, "")
def prints():
    return {s.name: keys.key_of({"code": s.code()}) for s in (*STAGES, gate.STAGE, replay.STAGE)}
was, changed = prints(), {}
for name in json.loads(sys.argv[1]):
    path = Path(name)
    text = path.read_text()
    module = name.removesuffix(".py").replace("/", ".")
    known = keys._module_print.__wrapped__
    path.write_text(text + "\\nEDITED = 1\\n")
    edited = known(module)
    path.write_text(text)
    real = keys._module_print
    keys._module_print = lambda n: edited if n == module else real(n)
    changed[name] = sorted(s for s, key in prints().items() if key != was[s])
    keys._module_print = real
print(json.dumps(changed))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(EDITS))],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {name: set(stages) for name, stages in json.loads(done.stdout).items()} == EDITS
