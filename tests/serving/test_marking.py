"""A passage cut into segments, so that a page can mark its quotes whatever they share."""

from hypothesis import given
from hypothesis import strategies as st

from serving.marking import marked

TEXT = "Die Schlüssel 🔑 werden am Montag gewechselt.\r\nالباب يغلق. Cafe\u0301 opens at nine."


def words_of(segments, number):
    return "".join(segment["text"] for segment in segments if number in segment["quotes"])


def test_quotes_that_overlap_nest_and_touch_keep_their_own_words():
    quotes = {
        1: "🔑 werden am Montag",
        2: "am Montag gewechselt",
        3: "werden",
        4: ".\r\nالباب يغلق",
        5: "Cafe\u0301 opens",
    }
    segments = marked(TEXT, quotes)
    assert "".join(segment["text"] for segment in segments) == TEXT
    for number, quote in quotes.items():
        assert words_of(segments, number) == quote.strip()
    assert any(segment["quotes"] == [1, 2] for segment in segments)


def test_white_space_and_look_alikes_may_differ_and_other_words_mark_nothing():
    segments = marked("The door  is “locked”\nat nine.", {1: 'door is "locked" at', 2: "is locked at ten", 3: ""})
    assert words_of(segments, 1) == "door  is “locked”\nat"
    assert words_of(segments, 2) == words_of(segments, 3) == ""


@given(st.text("abc é🔑\n", max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=5))
def test_segments_joined_are_the_text_and_marked_words_are_the_quote(text, places):
    quotes = {n: text[start : start + length] for n, (start, length) in enumerate(places, 1)}
    segments = marked(text, quotes)
    assert "".join(segment["text"] for segment in segments) == text
    for number, quote in quotes.items():
        assert words_of(segments, number) in ("", quote, quote.strip())
        assert bool(words_of(segments, number).strip()) == bool(quote.strip())
