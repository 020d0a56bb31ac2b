"""The files of the store's room stand on each other in one direction, also where only a type checker looks."""

import grimp
import pytest


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("tasks", cache_dir=None)


def test_no_two_files_of_the_store_need_each_other(graph):
    room = {name for name in graph.modules if name.startswith("tasks.store.")}
    needs = {name: graph.find_upstream_modules(name) & room for name in sorted(room)}
    assert "tasks.store.manifest" in needs["tasks.store.share"]
    assert [(a, b) for a in needs for b in needs[a] if a < b and a in needs[b]] == []


def test_a_manifest_is_read_without_knowing_where_results_lie(graph):
    behind = graph.find_upstream_modules("tasks.store.manifest")
    assert "tasks.store.hashing" in behind
    assert not {"tasks.store.store", "tasks.store.share", "tasks.store.places"} & behind
