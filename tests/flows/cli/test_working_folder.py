"""The folder in which somebody calls `raft` is data, never code; and our common package names are told from others'."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli.app import command
from raft_names import NAMES, environment_of_the_user, keep_working_folder_out
from tasks.adapters.smoke import run_command

ROOT = Path(__file__).resolve().parents[3]
RAFT = Path(sys.executable).with_name("raft")
HOSTILE = "import os\nopen(os.environ['HOSTILE_MARK'], 'a').write(__name__ + '\\n')\n"
DRIVER = """
import json, sys, time
from flows.cli.app import invoke
from raft_names import keep_working_folder_out

keep_working_folder_out()
codes = []
for call in json.loads(sys.argv[1]):
    began = time.monotonic()
    codes.append(invoke(call))
    print(call[0], codes[-1], f"{time.monotonic() - began:.1f} s", file=sys.stderr)
print(json.dumps(codes))
"""

PROCESSES = {
    "export": ["--set", "train.max_steps=2", "--set", "train.warmup_ratio=0.5"],
    "plan": ["--engine"],
    "domains": ["domains.yaml", "--retrain"],
}
"""Verbs that start processes of their own (trainer, Prefect's server, the check of an export, a domain's night), run as
a user runs them."""
LIBRARY_CALLS = {
    "run": ["--no-prefect", "--set", "evaluate.samples=150"],
    "ingest": [],
    "chunk": [],
    "embed": [],
    "index": [],
    "questions": [],
    "adapt": [],
    "embed_adapted": [],
    "index_adapted": [],
    "records": ["--show", "1"],
    "train": [],
    "calibrate": [],
    "evaluate": [],
    "report": [],
    "evaluate retrieval": [],
    "advise": ["--questions", "4"],
    "compare-bases": ["--bases", "{base}"],
    "search": ["What is Alder known for?"],
    "ask": ["What is Alder known for?"],
    "retrain": [],
    "promote": ["1"],
    "rollback": [],
    "adapters": [],
    "explain": [],
    "card": [],
    "feedback": [],
    "forget": ["alder.md"],
    "gc": [],
    "init": ["new.yaml"],
    "schema": [],
    "models": [],
}
"""Verbs whose work is done in the process itself."""
NOT_ASKED_FOR = {"adapt": 2, "embed_adapted": 2, "index_adapted": 2, "calibrate": 2}
"""Those of them that this project's settings leave nothing to do, and how they end."""
SERVERS = {"server", "schedule", "serve"}
"""Verbs that stay: tests/flows/test_foreign_page.py, test_lost_server.py and test_serve.py start them."""


@pytest.fixture
def hostile(warm, with_database, monkeypatch):
    """A warm project whose folder holds a module of every name; one that is imported leaves a mark."""
    with_database(warm.prefect_home)
    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), *NAMES, "raft_errors"}
    for name in names:
        if name.isidentifier():
            (warm.folder / f"{name}.py").write_text(HOSTILE)
    monkeypatch.setenv("HOSTILE_MARK", str(warm.folder / "mark"))
    values = {"common": json.loads(json.dumps(warm.values)), "domains": {"towns": {}}}
    (warm.folder / "domains.yaml").write_text(yaml.safe_dump(values))
    return warm


def imported(project) -> list[str]:
    mark = project.folder / "mark"
    return mark.read_text().split() if mark.exists() else []


def test_every_verb_is_run_in_a_hostile_folder():
    verbs = {registered.name or registered.callback.__name__ for registered in command().registered_commands}
    assert verbs == {*PROCESSES, *LIBRARY_CALLS, *SERVERS}


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param("export", marks=pytest.mark.heavy),
        *(pytest.param(n, marks=pytest.mark.wide) for n in ("plan", "domains")),
    ],
)
@pytest.mark.slow
def test_no_process_of_a_verb_imports_what_lies_in_the_working_folder(hostile, verb):
    environment = {**hostile.environment, "HOSTILE_MARK": os.environ["HOSTILE_MARK"]}
    call = [RAFT, verb, *PROCESSES[verb]]
    done = subprocess.run(call, cwd=hostile.folder, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, imported(hostile)) == (0, []), done.stderr


@pytest.mark.slow
def test_no_verb_imports_what_lies_in_the_working_folder(hostile):
    environment = {**hostile.environment, "HOSTILE_MARK": os.environ["HOSTILE_MARK"]}
    base = hostile.values["models"]["base"]
    calls = [[*verb.split(), *(word.format(base=base) for word in more)] for verb, more in LIBRARY_CALLS.items()]
    call = [sys.executable, "-P", "-c", DRIVER, json.dumps(calls)]
    done = subprocess.run(call, cwd=hostile.folder, env=environment, capture_output=True, text=True, timeout=300)
    assert imported(hostile) == []
    codes = dict(zip(LIBRARY_CALLS, json.loads(done.stdout.splitlines()[-1])))
    assert {verb: code for verb, code in codes.items() if code not in (0, 3, 4)} == NOT_ASKED_FOR, done.stderr


@pytest.mark.slow
def test_every_python_process_that_we_start_leaves_the_working_folder_out():
    """The interpreter is named in one way, and `-P` comes right behind it."""
    unsafe = []
    for path in (p for room in NAMES for p in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                second = node.elts[1]
                if not (isinstance(second, ast.Constant) and second.value == "-P"):
                    unsafe.append(f"{path.name}:{node.lineno}")
    assert unsafe == []


def test_what_a_library_starts_leaves_it_out_too_and_the_users_own_command_does_not(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    keep_working_folder_out()
    (tmp_path / "json.py").write_text("raise SystemExit('the folder was searched')")
    monkeypatch.chdir(tmp_path)
    assert subprocess.run([sys.executable, "-c", "import json"]).returncode == 0
    assert "PYTHONSAFEPATH" not in environment_of_the_user()
    (tmp_path / "ours.py").write_text("")
    (tmp_path / "check.py").write_text("import ours")
    run_command(f"{sys.executable} check.py", tmp_path, 1, timeout_seconds=60)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert environment_of_the_user()["PYTHONSAFEPATH"] == "1"


POOL = """
from retrieval.embedding.shards import local_pool
if __name__ == "__main__":
    with local_pool(1) as pool:
        print(pool.submit(sum, [1, 2]).result())
"""


def test_a_pool_of_a_librarys_user_searches_no_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    work, scripts = tmp_path / "work", tmp_path / "scripts"
    for folder in (work, scripts):
        folder.mkdir()
    (work / "multiprocessing.py").write_text("raise SystemExit('the folder was searched')")
    (scripts / "main.py").write_text(POOL)
    done = subprocess.run([sys.executable, scripts / "main.py"], cwd=work, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("3", 0), done.stderr


# ---- our names

IMPORTS = "import data\nassert data.__file__, 'a namespace'\nimport retrieval, jora_engine, data.nouns\n"


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory) -> Path:
    """The folder of an installation from a wheel, as `pip install --target` makes it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("the sources are no git checkout, so what a wheel is built from is not known")
    for name in listed.stdout.split("\0"):
        if name and name.startswith((*NAMES, "raft_", "pyproject", "README", "LICENSE")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-P", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "install", "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(params=["editable", pytest.param("wheel", marks=pytest.mark.slow)])
def python(request, tmp_path):
    """Runs a script that lies in `tmp_path`, with our packages as they were installed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    prelude = ""
    if request.param == "wheel":  # behind the script's folder, as site-packages are, and before the editable one
        prelude = f"import sys; sys.path.insert(1, {str(request.getfixturevalue('installed_wheel'))!r})\n"

    def run(script: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(prelude + script)
        command = [sys.executable, "script.py"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_a_plain_folder_of_our_name_beside_a_script_does_not_hide_our_package(python, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("a,b\n")
    done = python(IMPORTS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("hidden", "asked"),
    [("tasks.py", "flows.pipeline"), ("data.py", "retrieval.search"), ("retrieval/__init__.py", "tasks.store.store")],
)
def test_a_module_of_our_name_beside_a_script_is_named_in_one_line(python, tmp_path, hidden, asked):
    foreign = tmp_path / hidden
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("")
    done = python(f"import {asked}")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"raft_names.HiddenPackage: {foreign} hides the package")
    assert "Do: rename it" in last


def test_a_module_of_our_name_that_was_imported_before_is_named_too(python, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.py").write_text("")
    first = "import sys\nsys.path.insert(0, 'elsewhere')\nimport data\nsys.path.pop(0)\nimport retrieval"
    done = python(first)
    assert f"{tmp_path / 'elsewhere' / 'data.py'} hides the package 'data'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["tasks", "raft_errors"])
def test_the_command_says_it_in_one_line_and_ends_as_bad_input(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([RAFT, "schema"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / name}.py hides the package {name!r}" in done.stderr
