"""Cleaning, encodings and headings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.loading.detect import detect_text
from data.loading.headings import find_headings
from data.loading.options import Refused
from data.loading.text import clean_text, decode

FRENCH = "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison. " * 3
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом. " * 3
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。" * 3


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_clean_text_can_always_be_stored_and_cleaning_twice_changes_nothing(text):
    clean = clean_text(text)
    clean.encode("utf-8")  # raises on a lone surrogate
    assert "\0" not in clean
    assert "\r" not in clean
    assert clean_text(clean) == clean


def test_cleaning_keeps_words_and_line_structure():
    assert clean_text("\n\none  \r\ntwo\x00\rthree\u2028e\u0301\ud83d\ude00\ud800\n\n\n\n\n\nend\n") == (
        "one\ntwo\nthree\né😀\ufffd\n\n\nend"
    )


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", FRENCH),
        ("utf-8-sig", FRENCH),
        ("cp1252", FRENCH),
        ("utf-16", JAPANESE),
        ("utf-32", JAPANESE),
        ("utf-16-le", FRENCH),
        ("utf-16-be", FRENCH),
        ("shift_jis", JAPANESE),
        ("iso2022_jp", JAPANESE),
        ("koi8_r", RUSSIAN.replace("ё", "е")),
        ("cp1251", RUSSIAN),
    ],
)
def test_text_in_common_encodings_is_read_without_being_told(encoding, text):
    assert clean_text(decode(text.encode(encoding))[0]) == text.strip()


def test_the_declared_encoding_counts_only_where_it_decodes():
    assert decode(RUSSIAN.encode("cp1251"), "cp1251") == (RUSSIAN, "cp1251")
    assert decode(RUSSIAN.encode("cp1251"), "utf-8")[0] == RUSSIAN
    assert decode(RUSSIAN.encode("cp1251"), "no-such-encoding")[0] == RUSSIAN


def test_a_few_damaged_bytes_do_not_turn_utf8_into_another_encoding():
    text, encoding = decode(JAPANESE.encode()[:-1])
    assert encoding == "utf-8"
    assert text[:-1] == JAPANESE[:-1]


@pytest.mark.parametrize("raw", [bytes(range(256)) * 40, b"\x01\x02\x03\x04\x05\x06\x07" * 100, b"a\0\0\0" * 100])
def test_binary_bytes_are_not_taken_for_text(raw):
    with pytest.raises(Refused) as refusal:
        decode(raw)
    assert refusal.value.reason == "unsupported"


def test_markdown_headings_are_found_outside_code():
    text = (
        "Title\n=====\n\n# One\n\n```\n# no heading\n```\n\n## Two **bold** [link](x) ##\n\npara\nline\n---\n\n#hash\n"
    )
    assert [heading[1:] for heading in find_headings(text, "markdown")] == [
        (1, "Title"),
        (1, "One"),
        (2, "Two bold link"),
    ]
    assert all(text[start:].lstrip("# ").startswith(title[:3]) for start, _, title in find_headings(text, "markdown"))


def test_rst_heading_levels_follow_the_order_of_styles():
    text = "====\nBook\n====\n\nPart\n****\n\ntext\n\nInner\n=====\n\n   indented\n   ========\n\nNext\n****\n"
    assert [heading[1:] for heading in find_headings(text, "rst")] == [
        (1, "Book"),
        (2, "Part"),
        (3, "Inner"),
        (2, "Next"),
    ]


def test_asciidoc_headings():
    assert find_headings("= Doc\n\n----\n== code\n----\n\n== Part\n", "asciidoc") == ((0, 1, "Doc"), (26, 2, "Part"))


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        ("<!DOCTYPE html><p>x", "page.pdf", "html"),
        ("<!-- note -->\n<html><body>x", "page.txt", "html"),
        ("# Title", "a.md", "markdown"),
        ("plain words", "a.unknown", "plain"),
        ("From: a@b.c\nTo: d@e.f\nSubject: x\n\nbody", "mail", "mail"),
        ('{"cells": [], "nbformat": 4}', "a.json", "notebook"),
        ('{"a": 1}', "a.json", "json"),
        ("not json", "a.json", "plain"),
        ("<?xml version='1.0'?><r/>", "a", "xml"),
    ],
)
def test_content_says_more_than_the_name(text, name, kind):
    assert detect_text(text, name) == kind
