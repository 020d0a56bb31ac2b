"""Pages: what no reader sees is not in the text, and every cell of a table stands under its heading."""

import pytest

from data.loading.formats.html import render_html


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
