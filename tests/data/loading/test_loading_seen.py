"""Pages: what no reader sees is not in the text, and every cell of a table stands under its heading."""

import pytest

from data.loading import LoadOptions, corpus_report, load_corpus
from data.loading.formats.html import render_html
from data.loading.formats.tables import Grid


def seen(page: str) -> str:
    return "".join(render_html(f"<body><p>The mill stands beside the river.</p>{page}</body>", whole=True).parts)


@pytest.mark.parametrize(
    "hidden",
    [
        "<p hidden>secret</p>",
        "<p style='color: red; Display : none'>secret</p>",
        "<div style='visibility:hidden'><p>secret</p></div>",
        "<span style='font-size:0px;'>secret</span>",
        "<span style='opacity:0'>secret</span>",
        "<span style='mso-hide:all'>secret</span>",
        "<style>.note {display: none}</style><p class='old note'>secret</p>",
        "<style>#n, p.x {display:none !important}</style><p id=n>secret</p><p class=x>secret</p>",
        "<!-- secret -->",
        "<del>secret</del>",
        "<s>secret</s>",
        "<strike>secret</strike>",
        "<span style='text-decoration: line-through'>secret</span>",
        "<del><p>secret</p><p hidden>secret</p></del>",
    ],
)
def test_hidden_and_struck_out_text_is_left_out(hidden):
    assert seen(f"{hidden}<p>It grinds rye.</p>") == "The mill stands beside the river.\n\nIt grinds rye."


@pytest.mark.parametrize(
    "shown",
    [
        "<p hidden='until-found'>shown</p>",
        "<p style='font-size:0.9em; opacity:0.8'>shown</p>",
        "<style>.tab {display:none} .tab.open {display:block}</style><p class=tab>shown</p>",
        "<style>.tab {display:none}</style><script>toggle('tab')</script><p class=tab>shown</p>",
        "<style>@media print {.tab {display:none}}</style><p class=tab>shown</p>",
        "<ins>shown</ins>",
        "<details><summary>More</summary>shown</details>",
    ],
)
def test_what_can_be_seen_stays(shown):
    assert "shown" in seen(shown)


def test_a_page_that_waits_for_its_script_is_no_hidden_note():
    assert "The mill" in "".join(render_html("<body><div style='opacity:0'><p>The mill grinds.</p></div></body>").parts)


def test_what_was_left_out_is_counted():
    draft = render_html("<p>The mill grinds <del>oats</del> rye.</p><p hidden>old</p><p>It stands by the river.</p>")
    assert draft.metadata["left_out"] == {"hidden": 1, "struck out": 1}


def rows(page: str) -> list[str]:
    return [line for line in seen(page).splitlines() if line.startswith("|") and "---" not in line]


def test_merged_cells_keep_every_column():
    table = (
        "<table><tr><th colspan=2>Place</th><th>Planned</th></tr>"
        "<tr><td rowspan=2>North</td><td>Mill</td><td>4</td></tr><tr><td>Barn</td><td>9</td></tr>"
        "<tr><td>South</td><td rowspan=2>Dock</td><td>7</td></tr><tr><td>West</td><td>8</td></tr>"
        "<tr><td colspan=3>All figures in tons</td></tr></table>"
    )
    assert rows(table) == [
        "| Place | Place | Planned |",
        "| North | Mill | 4 |",
        "| North | Barn | 9 |",
        "| South | Dock | 7 |",
        "| West | Dock | 8 |",
        "| All figures in tons |  |  |",
    ]


def test_a_span_wider_than_its_table_adds_no_columns():
    table = "<table><tr><td colspan=99>Rates</td></tr><tr><td>day</td><td>5</td></tr></table>"
    assert rows(table) == ["| Rates |  |", "| day | 5 |"]


def test_a_small_table_in_a_cell_becomes_words_of_the_row():
    inner = "<table><tr><td>low</td><td>12 km/h</td></tr><tr><td>high</td><td>40 km/h</td></tr></table>"
    table = f"<table><tr><th>Model</th><th>Speeds</th></tr><tr><td>Ant</td><td>{inner}</td></tr></table>"
    assert rows(table) == ["| Model | Speeds |", "| Ant | low, 12 km/h; high, 40 km/h |"]


def test_a_page_keeps_the_head_of_a_table_with_merged_cells_and_tables_stay_apart():
    page = (
        "<h1>Rates</h1><table><tr><th>Place</th><th colspan=3>Rates of the whole year</th></tr>"
        "<tr><td>Mill</td><td>4</td><td>5</td><td>6</td></tr><tr><td>Barn</td><td>9</td><td>8</td><td>7</td></tr></table>"
        "<table><tr><th>Gate</th><th>Hours</th></tr><tr><td>North</td><td>six to nine in the evening</td></tr></table>"
    )
    text = "".join(render_html(f"<html><body>{page}</body></html>").parts)
    assert text.splitlines()[2:] == [
        "| Place | Rates of the whole year | Rates of the whole year | Rates of the whole year |",
        "| --- | --- | --- | --- |",
        "| Mill | 4 | 5 | 6 |",
        "| Barn | 9 | 8 | 7 |",
        "",
        "| Gate | Hours |",
        "| --- | --- |",
        "| North | six to nine in the evening |",
    ]


def test_items_keep_their_numbers():
    assert seen(
        "<ol><li>moor<ul><li>fore</li></ul></li><li>unload</li></ol><ol start=5><li>a</li><li value=9>b</ol>"
    ) == ("The mill stands beside the river.\n\n1. moor\n- fore\n2. unload\n5. a\n9. b")


def test_a_list_that_counts_down_keeps_its_numbers():
    assert seen(
        "<ol reversed><li>rye<ol><li>red</li><li>black</li></ol></li><li>oats</li><li>flax</li></ol>"
        "<p>Then:</p><ol reversed start=9><li>a</li><li value=4>b</li><li>c</li></ol>"
    ) == (
        "The mill stands beside the river.\n\n3. rye\n1. red\n2. black\n2. oats\n1. flax\n\nThen:\n\n9. a\n4. b\n3. c"
    )


@pytest.mark.parametrize(
    ("opening", "marks"),
    [
        ("<ol type=a>", ["a", "b", "c"]),
        ("<ol type='A' start=26>", ["Z", "AA", "AB"]),
        ("<ol type=i start=8>", ["viii", "ix", "x"]),
        ("<ol type=I start=1990 reversed>", ["MCMXC", "MCMLXXXIX", "MCMLXXXVIII"]),
        ("<ol type=1>", ["1", "2", "3"]),
        ("<ul type=a>", ["-", "-", "-"]),
    ],
)
def test_a_list_of_letters_or_roman_numbers_keeps_them(opening, marks):
    marks = [mark if mark == "-" else f"{mark}." for mark in marks]
    lines = [f"{mark} {word}" for mark, word in zip(marks, ("rye", "oats", "flax"), strict=True)]
    page = f"{opening}<li>rye</li><li>oats</li><li>flax</li></{opening[1:3]}>"
    assert seen(page) == "The mill stands beside the river.\n\n" + "\n".join(lines)


@pytest.mark.slow
def test_the_report_sums_up_what_was_left_out_and_is_silent_where_nothing_was(tmp_path):
    (tmp_path / "a.md").write_text("The mill <!-- old --> ~~grinds~~ rye.\n\n<!-- more -->\n")
    (tmp_path / "b.md").write_text("The barn <!-- old --> is full.\n")
    report = corpus_report(load_corpus([str(tmp_path)], options=LoadOptions(workers=1)))
    assert report["left_out"] == {"comments": 3, "struck out": 1}
    plain = corpus_report(load_corpus([str(tmp_path / "b.md")], options=LoadOptions(workers=1)))
    assert plain["left_out"] == {"comments": 1}
    (tmp_path / "c.txt").write_text("The gate is shut.\n")
    silent = corpus_report(load_corpus([str(tmp_path / "c.txt")], options=LoadOptions(workers=1)))
    assert not {"left_out", "damaged_characters"} & silent.keys()


def test_cells_that_hang_down_for_ever_cost_no_more_than_their_table():
    grid = Grid()
    for _ in range(5000):
        grid.add("a", rows=60_000)
        grid.add("b")
        grid.end_row()
    assert max(map(len, grid.rows)) <= 202
