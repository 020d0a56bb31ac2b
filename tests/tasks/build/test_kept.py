"""A finished result may be taken as current though other code made it, until it is given up; and that is told."""

import dataclasses
import json

import fake_stages
import pytest
from fake_stages import FIRST, SECOND, FirstConfig, SecondConfig, Source, walk

from raft_errors import BadInput
from tasks.build import kept
from tasks.build.section import setting
from tasks.build.stage import Request, find, run
from tasks.store.manifest import MANIFEST
from tasks.store.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_stages, "WORLD", fake_stages.World(log=tmp_path / "log"))
    return Store(tmp_path / "raft")


def upgraded(stage=FIRST, **changes):
    """The stage as another installation has it: its key differs, its inputs and settings do not."""
    return dataclasses.replace(stage, packages=("pip",), **changes)


def request(stage=None, config=None, source=None) -> Request:
    return Request(stage or upgraded(), config or FirstConfig(), {"corpus": source or Source()})


def test_a_result_of_other_code_is_taken_only_where_that_is_asked_for(store):
    old = walk(store)["first"]
    asked = request()
    assert asked.key() != old.key
    assert kept.take(asked, store, ()) is None
    taken = kept.take(asked, store, {"first"})
    assert (taken.key, taken.digest) == (old.key, old.digest)
    assert taken._kept
    assert all("pip" in words for words in taken._kept)


def test_a_section_that_is_read_as_well_now_is_the_codes_choice_whatever_it_holds(store):
    """What a person wrote into it was meant for the stages that read it then."""
    old = walk(store)["first"]
    stage, section = upgraded(shared=("second",)), SecondConfig(factor=7)
    asked = Request(stage, FirstConfig(), {"corpus": Source()}, shared={"second": section})
    taken = kept.take(asked, store, {"first"})
    assert (taken.key, taken.digest) == (old.key, old.digest)
    assert "the section second is read as well" in taken._kept


def test_what_was_taken_stays_current_until_it_is_given_up(store):
    old = walk(store)["first"]
    asked = request()
    kept.take(asked, store, {"first"})
    assert find(asked, store, fake_stages.silent).key == old.key
    assert run(asked, store).key == old.key
    assert kept.take(asked, store, {"none"}) is None
    assert find(asked, store, fake_stages.silent) is None
    assert run(asked, store).key == asked.key()


def test_a_result_that_today_s_code_made_comes_first(store):
    walk(store)
    asked = request()
    new = run(asked, store)
    assert kept.take(asked, store, {"first", "all"}) is None
    assert run(asked, store).key == new.key


def test_what_is_built_on_it_says_so(store):
    walk(store)
    taken = kept.take(request(), store, {"first"})
    middle = run(Request(SECOND, SecondConfig(factor=7), {"first": taken}), store)
    last = run(Request(fake_stages.THIRD, fake_stages.ThirdConfig(), {"second": middle}), store)
    assert json.loads((last.folder / MANIFEST).read_text())["kept"] == ["first"]
    assert middle.lineage["first"] == taken.link
    assert walk(Store(store.root.parent / "other"))["third"].kept == []


@pytest.mark.parametrize(
    ("config", "source", "words"),
    [
        (FirstConfig(value=4), None, r"first\.value: 3 → 4"),
        (None, Source("source-2"), "input corpus changed"),
    ],
)
def test_other_settings_or_inputs_are_refused_by_name_and_all_passes_over_them(store, config, source, words):
    walk(store)
    with pytest.raises(BadInput, match=f"--keep first: .* more than the code differs: {words}"):
        kept.take(request(config=config, source=source), store, {"first"})
    assert kept.take(request(config=config, source=source), store, {"all"}) is None


def test_a_stage_without_a_result_is_refused_with_those_that_have_one(store):
    walk(store)
    with pytest.raises(BadInput, match=r"no finished result of train .* Expected: .* first, second, third"):
        kept.require_finished({"train"}, store)


def test_a_damaged_result_is_never_taken(store):
    old = walk(store)["first"]
    old.path("numbers.txt").write_text("1\n2")
    with pytest.raises(BadInput, match=r"--keep first: .* damaged: numbers.txt"):
        kept.take(request(), store, {"first"})


def test_what_was_taken_and_then_damaged_is_built_again(store):
    old = walk(store)["first"]
    kept.take(request(), store, {"first"})
    old.path("numbers.txt").write_text("1\n2")
    assert run(request(), store).key == request().key()


def test_a_setting_that_is_new_and_stands_at_its_default_came_with_the_code(store):
    class Wider(FirstConfig):
        depth: int = setting(2, "New in this release")

    walk(store)
    wider = upgraded(config=Wider)
    assert kept.take(request(wider, Wider(depth=3)), store, {"all"}) is None
    taken = kept.take(request(wider, Wider()), store, {"all"})
    assert "first.depth: null → 2" in taken._kept


def test_names_of_packages_are_compared_as_indexes_do(store):
    now = {"code": {}, "version": "1", "packages": {"pystemmer": "3", "rouge-score": "1"}}
    then = {"code": {}, "version": "1", "packages": {"PyStemmer": "3", "rouge_score": "0"}}
    assert kept.made_otherwise(then, now) == ["rouge-score: 0 → 1"]


def test_settings_are_told_as_a_configuration_has_them():
    then = {"file": {"sha256": "ab"}, "flag": True, "many": [{"sha256": "c"}, "auto"], "none": None}
    now = {"file": None, "flag": False, "many": [], "none": {"sha256": "d"}}
    assert kept.setting_differences(then, FirstConfig(), now, prefix="s.").choices == (
        "s.file: a file → null",
        "s.flag: true → false",
        "s.many: [a file, auto] → []",
        "s.none: null → a file",
    )
