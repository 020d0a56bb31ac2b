"""What looks the same is compared as the same, what says something else is not, and ASCII stays as it is."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.text.alike import alike, alike_with_origins


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Cafe\u0301 Zu\u0308rich", "Café Zürich"),
        ("\u1112\u1161\u11ab글", "한글"),  # Hangul as a Mac writes it
        ("it’s “here”", 'it\'s "here"'),
        ("1939–45 — then", "1939-45 - then"),
        ("fire\u00adwall\u200b", "firewall"),
        ("ﬁrst", "first"),
        ("９０ｋｍ", "90km"),
        ("ｶﾞﾗｽ", "ガラス"),
        ("wait…", "wait..."),
        ("a\u00a0b\n c", "a b c"),
        ("十五\n天", "十五天"),
    ],
)
def test_what_looks_the_same_is_the_same(first, second):
    assert alike(first) == alike(second) == second


@pytest.mark.parametrize(("first", "second"), [("10⁵", "105"), ("H₂O", "H2O"), ("3½", "31/2"), ("①0", "10")])
def test_what_reads_as_another_number_stays_another_text(first, second):
    assert alike(first) == first != alike(second)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_keeps_every_word(text):
    assert alike(text).split() == text.split()


mixed = st.text(st.sampled_from("ae\u0301\u0308 \n\u00a0“”‘’–ﬁ…十五天 กำป่าน\u1112\u1161\u11abｶﾞ\u200b.x"), max_size=30)


@settings(deadline=None)
@given(mixed)
@example("\uff76 \uff9e")  # a voicing mark after a space belongs to nothing before it
def test_each_character_knows_where_it_stood(text):
    plain, starts, ends = alike_with_origins(text)
    assert plain.strip() == alike(text)
    assert len(plain) == len(starts) == len(ends)
    assert starts == sorted(starts)
    for character, start, end in zip(plain, starts, ends):
        assert character in alike(text[start:end]) or not character.strip() or not text[start:end].isascii()
    assert unicodedata.normalize("NFC", plain) == plain
