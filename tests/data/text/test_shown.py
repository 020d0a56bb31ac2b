"""How foreign text looks on a terminal and on a page of Markdown."""

import pytest

from data.text.shown import markdown, shown


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("a\nb.md", "a\\nb.md"),
        ("a\tb\rc", "a\\tb\\rc"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("\x9b31mred", "\\x9b31mred"),
        ("invoice\u202efdp.exe", "invoice\\u202efdp.exe"),
        ("\u2066isolated\u2069", "\\u2066isolated\\u2069"),
        ("a\u2028b", "a\\u2028b"),
        ("half \ud800", "half \\ud800"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("bell\x07", "bell\\x07"),
        ("[red]plain[/red] Ünïcode 文字 👩‍👧", "[red]plain[/red] Ünïcode 文字 👩‍👧"),
    ],
)
def test_what_is_no_mark_on_the_screen_is_written_out(name, seen):
    assert shown(name) == seen
    assert shown(name).encode()  # a terminal can be sent it


def test_a_passage_keeps_its_lines_and_nothing_else():
    assert shown("one\n\ttwo\x1b[1m\u202e", lines=True) == "one\n\ttwo\\x1b[1m\\u202e"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("![x](http://evil.example/a.png)", r"!\[x\](http://evil.example/a.png)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("a | b", r"a \| b"),
        ("`code` *bold*", r"\`code\` \*bold\*"),
        ("# heading", r"\# heading"),
        ("first\n# heading", r"first\\n# heading"),
        ("12 answers; F1 0.3 → 0.4 (0.1 to 0.2)", "12 answers; F1 0.3 → 0.4 (0.1 to 0.2)"),
    ],
)
def test_a_name_makes_no_picture_link_or_table_in_a_page(text, words):
    assert markdown(text) == words
