"""Answers are kept one by one: what an interruption leaves undone is asked again, and nothing else."""

import sys
from pathlib import Path

import pytest

from data.nouns import Record
from tasks.answers import Answerer, Clock, answer
from tasks.itemcache import SqliteCache

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import tiny

    return tiny.make_base(tmp_path_factory.mktemp("answers") / "base")


def test_an_interrupted_round_of_answers_goes_on_where_it_was(base, tmp_path):
    cache = SqliteCache(tmp_path / "items.sqlite")
    who = Answerer(base, None, "a" * 64, "float32", 8, 2)
    records = [Record(f"Question {i}?", "One passage. " * i, "", {}) for i in range(5)]
    seen = []

    def stop_after_two(done, total, what):
        seen.append((done, total, what))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(who, records, cache, stop_after_two, "test")
    assert seen == [(0, 5, "test"), (1, 5, "test"), (2, 5, "test")]
    clock = Clock()
    resumed = answer(who, records, cache, lambda *said: seen.append(said), "test", clock=clock)
    assert seen[3:] == [(n, 5, "test") for n in (2, 3, 4, 5)]
    assert clock.answers == 3
    assert clock.mean > 0
    fresh = SqliteCache(tmp_path / "other.sqlite")
    assert answer(who, records, fresh, lambda *said: None, "test") == resumed
