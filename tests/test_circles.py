"""The house as its imports draw it: no circle of files, and no folder in which one gets lost."""

import graphlib
from pathlib import Path

import grimp

from raft_names import NAMES

ROOT = Path(__file__).resolve().parents[1]
WIDEST = 25  # Python files that a reader can take in


def circle(graph: grimp.ImportGraph) -> list[str]:
    """The files of one circle of imports, those within functions included; empty where there is none."""
    files = {file: graph.find_modules_directly_imported_by(file) for file in graph.modules}
    try:
        graphlib.TopologicalSorter(files).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_by_way_of_others():
    graph = grimp.build_graph(*NAMES, exclude_type_checking_imports=True, cache_dir=None)
    assert len(graph.modules) > 200, "the whole project is looked at"
    assert circle(graph) == []


def test_a_circle_is_seen_also_where_one_of_its_imports_stands_in_a_function(tmp_path, monkeypatch):
    package = tmp_path / "round_trip"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from round_trip import second\n")
    (package / "second.py").write_text("def later():\n    from round_trip.first import second\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(circle(grimp.build_graph("round_trip", cache_dir=None))) == {"round_trip.first", "round_trip.second"}


def test_no_folder_has_more_files_than_one_can_take_in():
    folders = {folder for name in NAMES for folder in (ROOT / name, *(ROOT / name).rglob("*")) if folder.is_dir()}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > WIDEST} == {}
