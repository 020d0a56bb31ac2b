"""What is kept by text is made once, and made anew when its maker changes."""

import pytest

from data.memo import Memo, memoise
from data.nouns import MemoryCache


@pytest.fixture
def cache():
    return MemoryCache()


def test_each_text_is_worked_on_once_and_only_while_it_is_new(cache):
    seen = []

    def make(text):
        seen.append(text)
        return {"length": len(text), "pair": (1, text)}

    first = memoise(cache, "lengths-1", ["ab", "c", "ab"], make)
    assert first == [{"length": 2, "pair": [1, "ab"]}, {"length": 1, "pair": [1, "c"]}, first[0]]
    assert memoise(cache, "lengths-1", ["c", "new"], make)[0] == first[1]
    assert seen == ["ab", "c", "new"]


def test_another_maker_does_not_get_the_results_of_the_first(cache):
    assert memoise(cache, "lengths-1", ["ab"], len) == [2]
    assert memoise(cache, "lengths-2", ["ab"], str.upper) == ["AB"]


def test_without_a_cache_the_values_are_the_same():
    assert memoise(None, "pairs-1", ["ab"], lambda text: (text, 1)) == [["ab", 1]]


def test_a_memo_asks_the_cache_and_keeps_what_is_new_when_saved(cache):
    calls = []

    def memo():
        return Memo(cache, "lengths-1", lambda text: calls.append(text) or len(text))

    first = memo()
    assert [first("ab"), first("ab"), first("c")] == [2, 2, 1]
    assert calls == ["ab", "c"]
    first.save()
    assert memo()("ab") == 2
    assert calls == ["ab", "c"]
