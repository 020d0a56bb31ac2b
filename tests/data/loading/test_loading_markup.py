"""Markdown, reStructuredText, AsciiDoc and notebooks as they are shown, and what stands in front of them."""

import json
from pathlib import Path

import pytest

from data.loading import LoadOptions
from data.loading.formats.front_matter import split_front_matter
from data.loading.formats.markup import shown_asciidoc, shown_markdown, shown_rst
from data.loading.parse import load_file
from data.loading.raised import write_raised
from data.nouns import Document


def load(tmp_path: Path, name: str, text: str) -> Document:
    (tmp_path / name).write_text(text, encoding="utf-8")
    documents, quarantined, _ = load_file(tmp_path / name, name, LoadOptions())
    assert not quarantined
    return documents[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("One <!-- old --> two.", "One two."),
        ("One.\n\n<!-- a\n\nb\n```\n-->\n\nTwo.", "One.\n\n\nTwo."),
        ("One.\n\n[//]: # (old note)\n\nTwo.", "One.\n\n\nTwo."),
        ("One.\n\n[comment]: <> (old note)\n\nTwo.", "One.\n\n\nTwo."),
        ("a --> b\n\nOne <!-- never ends", "a --> b\n\nOne <!-- never ends"),
        ("The limit is ~~50~~ 80 and <del>5</del><s class='x'>6</s> 7.", "The limit is 80 and 7."),
        ("A <span style='display: none'>secret</span><b hidden>secret</b> word.", "A word."),
        ("10<sup>6</sup> and H<sub>2</sub>O", "10^6 and H2O"),
        ("A <svg width='3'>\n<path d='M1 2'/>\n</svg> B<style>p {}</style>.", "A B."),
        ("* item\n\n    goes on ~~old~~\n", "* item\n\n    goes on\n"),
    ],
)
def test_what_a_reader_of_markdown_does_not_see_is_left_out(text, shown):
    assert write_raised(shown_markdown(text)[0]) == shown


@pytest.mark.parametrize(
    "text",
    [
        "```html\n<!-- stays -->\n~~x~~ <sup>6</sup>\n```\nAfter.",
        "~~~~\n```\n<!-- stays -->\n~~~~\n",
        "- item\n\n  ```\n  <!-- stays -->\n  ```\n",
        "> ```\n> <!-- stays -->\n> ```\n",
        "```\n<!-- a fence without end -->",
        "Write `<!-- so -->` or ``a ` <del>b</del>``.",
        "Code:\n\n    <!-- stays -->\n    <del>x</del>\n\nAfter.",
        "Approximately ~~ or ~5 or a~~b.",
        "\\<!-- literal -->",
        "E = mc^2^ and x~1~",
        "The <svg> element is drawn.",
    ],
)
def test_code_and_other_signs_stay(text):
    assert shown_markdown(text) == (text, {})


def test_comments_are_counted_in_the_metadata(tmp_path):
    document = load(tmp_path, "a.md", "# Head\n\n<!-- a -->\nText <!-- b -->and ~~no~~ more.\n")
    assert document.text == "# Head\n\nText and more."
    assert document.metadata["left_out"] == {"comments": 2, "struck out": 1}


def test_comments_of_rst_are_left_out_and_directives_and_literals_are_not():
    text = (
        "Head\n====\n\n.. A note to ourselves\n   over two lines,\n\n   and a paragraph.\n\n.. note:: Shown.\n\n   Too."
        "\n\n.. _target: x\n.. [1] A footnote.\n.. |name| replace:: word\n\nAn example::\n\n  .. stays\n\n"
        "..\n\n  A quote.\n"
    )
    shown, left_out = shown_rst(text)
    assert shown == text.replace(".. A note to ourselves\n   over two lines,\n\n   and a paragraph.\n\n", "")
    assert left_out == {"comments": 1}


def test_comments_of_asciidoc_are_left_out():
    text = "= Head\n\n// note\nText // not one.\n\n////\nblock\n////\n\n----\n// code stays\n----\n"
    assert shown_asciidoc(text) == ("= Head\n\nText // not one.\n\n\n----\n// code stays\n----\n", {"comments": 2})


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("+++\ntitle = 'Opening hours'\ntags = [\n  'a',\n]\n+++\n", "Opening hours"),
        ('---\ntitle: "Gates: a guide"\nmenu:\n  title: no\n---\n', "Gates: a guide"),
        ("---\ntitle: >-\n  A long\n  title\ndate: 2024-03-01\n---\n", "A long title"),
        ("---\ntitle: 2024\n...\n", "2024"),
        ("---\nTitle: It's open\nbad: [\n---\n", "It's open"),
        ('---json\n{"title": "Depots"}\n---\n', "Depots"),
        ('{\n "title": "Depots",\n "draft": false\n}\n', "Depots"),
        (';;;\n"title": "Depots"\n;;;\n', "Depots"),
        ("\ufeff---\ntitle: Marked\n---\n", "Marked"),
        ("---\n---\n", ""),
        ("---\nlayout: page\n---\n", ""),
    ],
)
def test_front_matter_gives_the_title_and_is_no_text(front, title):
    assert split_front_matter(front + "The gate opens at six.") == (title, "The gate opens at six.")


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nThe gate opens at six.\n\n---\n\nIt closes at nine.",
        "---\nA note, and no fields.\n---\nText.",
        "{% include head %}\nText.",
        '{"title": "all of it"}',
        "+++ no front matter",
    ],
)
def test_text_between_rules_and_other_beginnings_are_text(text):
    assert split_front_matter(text) == ("", text)


def test_front_matter_of_pages_and_other_markup(tmp_path):
    page = load(
        tmp_path, "a.html", "---\nlayout: page\ntitle: Gates\n---\n<p>The gate opens at six in the morning.</p>"
    )
    assert (page.title, page.text) == ("Gates", "The gate opens at six in the morning.")
    assert load(tmp_path, "a.rst", "---\ntitle: Gates\n---\n\nWords.\n").title == "Gates"


def test_a_notebook_shows_its_cells(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Mill\n", "<!-- draft -->\n", "10<sup>6</sup> ~~old~~ tons."]},
        {"cell_type": "code", "source": "doc = '''```\n<!-- stays -->\n```'''"},
        {"cell_type": "raw", "source": "raw <!-- stays -->"},
    ]
    document = load(tmp_path, "a.ipynb", json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    assert document.text == (
        "# Mill\n10^6 tons.\n\n````\ndoc = '''```\n<!-- stays -->\n```'''\n````\n\nraw <!-- stays -->"
    )
    assert document.metadata["left_out"] == {"comments": 1, "struck out": 1}


def test_a_comment_below_dots_that_stand_alone_is_left_out():
    text = "Words.\n\n..\n   Ask Ann first.\n\n   _target: x\n\nMore.\n\n- item\n\n  ..  \n    A note.\n\n  Goes on.\n"
    shown, left_out = shown_rst(text)
    assert shown == "Words.\n\nMore.\n\n- item\n\n  Goes on.\n"
    assert left_out == {"comments": 2}
    for shown_words in (
        "..\n\n   A quotation.\n",
        "..\n.. note:: Shown.\n",
        "Said::\n\n  ..\n     stays\n",
        "  ..\n  Words.\n",
    ):
        assert shown_rst(shown_words) == (shown_words, {})
