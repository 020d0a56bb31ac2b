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

from flows.calls import STAGES
from raft_names import NAMES
from tasks import gate, replay
from tasks.build import keys, packages
from tasks.build.packages import distribution_of, distributions_of, normal

ROOT = Path(__file__).resolve().parents[3]
ALL = {**STAGES, "gate": gate.STAGE, "replay": replay.STAGE}
CHILDREN = {  # what stages start as processes of their own, which no import shows
    "ingest": "data.loading.worker",
    "train": "jora_engine.training.job",
    "export": "tasks.runtime.parity",
}


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        *("tasks", "data", "retrieval", "jora_engine"),
        include_external_packages=True,
        exclude_type_checking_imports=True,  # what never runs decides nothing
        cache_dir=None,
    )


@functools.cache
def providers() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


@functools.cache
def reachable(stage: str) -> tuple[set[str], set[str]]:
    """(our modules, libraries) behind a stage's work."""
    ours: set[str] = set()
    foreign: set[str] = set()
    queue = [ALL[stage].build.__module__, *([CHILDREN[stage]] if stage in CHILDREN else [])]
    while queue:
        name = queue.pop()
        top = name.split(".")[0]
        if top == "raft_names":  # checks and offers names: it decides no result
            continue
        if top == "raft_errors":
            ours.add(top)
        elif top not in keys.LIBRARIES:
            foreign.add(top)
        elif name not in ours:
            ours.add(name)
            queue += graph().find_modules_directly_imported_by(name)
            queue += [name.rpartition(".")[0]] if "." in name else []  # importing a module runs its packages
    return ours, foreign - set(sys.stdlib_module_names)


@pytest.mark.parametrize("stage", ALL)
def test_the_fingerprint_is_the_import_closure_of_the_work_and_nothing_else(stage):
    fingerprinted = {name for name in ALL[stage].code() if "/" not in name}  # beside them: files that the code names
    assert fingerprinted == reachable(stage)[0]


@pytest.mark.parametrize("stage", ALL)
def test_a_stages_work_stands_in_a_file_of_its_own_name(stage):
    assert ALL[stage].build.__module__ == f"tasks.work.{stage}"


@pytest.mark.parametrize("stage", ALL)
def test_nothing_that_keeps_starts_fetches_or_shows_is_in_a_key(stage):
    rooms = {name.split(".")[1] for name in ALL[stage].code() if name.startswith("tasks.")}
    assert rooms <= {"work", "runtime"}


@pytest.mark.parametrize("stage", ALL)
def test_every_library_that_this_code_imports_is_in_the_key(stage):
    imported = {normal(name) for module in reachable(stage)[1] for name in providers().get(module, [module])}
    assert imported - packages.CARRIERS <= ALL[stage].versions().keys()


@pytest.mark.parametrize("stage", ["questions", "adapt", "records", "calibrate", "evaluate", "gate"])
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


EDITS = {
    "retrieval/embedding/embedder.py": {"embed", "questions", "adapt", "records", "calibrate", "evaluate", "gate"},
    "retrieval/stores/faiss_store.py": {"questions", "adapt", "records", "calibrate", "evaluate", "gate"},
    "retrieval/stores/lance_store.py": {"questions", "adapt", "records", "calibrate", "evaluate", "gate"},
    "retrieval/stores/qdrant_store.py": {"questions", "adapt", "records", "calibrate", "evaluate", "gate"},
    "tasks/runtime/retriever.py": {"questions", "adapt", "records", "calibrate", "evaluate", "gate"},
    "tasks/runtime/answers.py": {"calibrate", "evaluate", "gate"},
    "tasks/runtime/contenders.py": {"evaluate", "gate"},
    "tasks/runtime/exam.py": {"calibrate", "evaluate", "gate"},
    "tasks/runtime/general_replies.py": {"evaluate"},
    "tasks/runtime/local_teacher.py": {"questions", "evaluate"},
    "tasks/runtime/parity.py": {"export"},
    "tasks/work/model_card.py": {"export"},
    "tasks/work/train.py": {"train"},
    "tasks/work/records.py": {"records"},
    "tasks/work/bench.py": set(ALL),
    "tasks/runtime/folders.py": set(ALL),
    "raft_errors.py": set(ALL),
    "jora_engine/training/job.py": {"train"},
    "data/loading/worker.py": {"ingest"},
    "tasks/store/store.py": set(),
    "tasks/store/locks.py": set(),
    "tasks/store/share.py": set(),
    "tasks/build/supervisor.py": set(),
    "tasks/build/stage.py": set(),
    "tasks/build/keys.py": set(),
    "tasks/prefect/task.py": set(),
    "tasks/inputs/models.py": set(),
    "tasks/inputs/corpus.py": set(),
    "tasks/upkeep/gc.py": set(),
    "tasks/adapters/registry.py": set(),
    "tasks/records.py": set(),  # the settings count by their values
    "tasks/config.py": set(),
}
"""File -> the stages whose results an edit in it may change."""


@pytest.mark.slow
def test_an_edit_changes_the_keys_of_the_stages_whose_work_it_is_and_of_no_other(tmp_path):
    """Every file of `tasks` is edited once, and some of the libraries; a remark is written into each of them, too."""
    for folder in NAMES:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("raft_errors.py", "raft_names.py"):
        shutil.copy(ROOT / file, tmp_path)
    files = sorted({*EDITS, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "tasks").rglob("*.py"))})
    program = """
import json, sys
from pathlib import Path
from flows.calls import STAGES
from tasks import gate, replay
from tasks.build import keys
assert Path(keys.__file__).is_relative_to(Path.cwd())
keys._kept_prints = lambda: (None, "")
real = keys._module_print
def prints():
    return {s.name: keys.key_of({"code": s.code()}) for s in (*STAGES.values(), gate.STAGE, replay.STAGE)}
def edited(path, module, words):
    text = path.read_text()
    path.write_text(text + words)
    try:
        return real.__wrapped__(module)
    finally:
        path.write_text(text)
was, edits, comments = prints(), {}, []
for name in json.loads(sys.argv[1]):
    module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    comments += [name] if edited(Path(name), module, "\\n# a remark\\n") != real(module) else []
    other = edited(Path(name), module, "\\nEDITED = 1\\n")
    keys._module_print = lambda name: other if name == module else real(name)
    edits[name] = sorted(stage for stage, key in prints().items() if key != was[stage])
print(json.dumps([edits, comments]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(files)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    edits, comments = json.loads(done.stdout)
    modules = {name: name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in files}
    assert {name: set(stages) for name, stages in edits.items()} == {
        name: {stage for stage in ALL if module in reachable(stage)[0]} for name, module in modules.items()
    }
    assert {name: set(edits[name]) for name in EDITS} == EDITS
    assert comments == [], "a remark decides nothing"
