"""The page and the table over several bases: every cell is there, failures with their reasons, and all is escaped."""

import csv
import io

from data.reports.bases import COLUMNS, bases_csv, bases_page, means

DONE = {
    "state": "done", "reason": "", "metric": "Token F1", "zero_shot": 0.2, "tuned": 0.5, "difference": 0.3, "low": 0.2,
    "high": 0.4, "level": 0.95, "n": 40, "verdict": "better", "flag": "", "gate": "promote", "forecast": "gain",
    "reads": 0.4, "came_true": True, "train_seconds": 620.0, "train_tokens": 120_000, "weights_bytes": 3 * 2**30,
    "step_bytes": 5 * 2**30, "report": "file:///store/report.html", "ran": ["train"], "name": "law-on-a",
}  # fmt: skip
NOTHING = dict.fromkeys(DONE) | {"reason": "", "flag": "", "gate": "", "report": "", "ran": [], "name": "x"}


def rows():
    worse = {"tuned": 0.1, "difference": -0.1, "low": -0.2, "high": -0.05, "verdict": "worse", "flag": "worse"}
    return [
        {**DONE, "domain": "law", "base": "owner/a"},
        {**DONE, **worse, "domain": "law", "base": "<b>", "gate": "reject", "came_true": False},
        {**NOTHING, "domain": "law", "base": "broken", "state": "failed", "reason": "no <tokenizer>"},
        {**NOTHING, "domain": "law", "base": "later", "state": "waiting"},
        {**DONE, "domain": "health", "base": "owner/a", "zero_shot": 0.4, "tuned": 0.7},
    ]


LEADERS = {
    "law": {
        "base": "owner/a", "tuned": 0.5, "metric": "f1",
        "others": {"<b>": {"difference": 0.4, "low": 0.3, "high": 0.5, "verdict": "better"}},
    }
}  # fmt: skip


def test_every_cell_is_on_the_page_with_its_figures():
    page = bases_page(rows(), LEADERS, {"decided": 3, "hits": 2, "gained": 2})
    assert '<a href="file:///store/report.html">owner/a</a> <span class="tag">highest</span>' in page
    assert "+30.0 [+20.0, +40.0]" in page
    assert "<td>10 min</td><td>120,000</td><td>3.00 GiB</td><td>5.00 GiB</td>" in page
    assert '<span class="tag">worse than before</span>' in page
    assert "broken failed: no &lt;tokenizer&gt;" in page
    assert "1 cell not run yet" in page
    assert "&lt;b&gt;" in page
    assert "<b></td>" not in page
    assert "came true in 2 of 3 cells; always to forecast a gain would in 2" in page
    assert "Ahead of &lt;b&gt; by +40.0 points [+30.0, +50.0]" in page
    assert "prefers-color-scheme:dark" in page
    assert "http" not in page.replace("http-equiv", ""), "it asks for nothing from elsewhere"


def test_a_chart_is_left_out_where_its_names_could_not_be_told_apart():
    def page(*bases):
        return bases_page([{**DONE, "domain": "law", "base": base} for base in bases], {}, {"decided": 0})

    assert page("owner/first-instruct", "owner/second-instruct").count("<svg") == 2
    alike = [f"owner/{name}-with-a-long-name-in-common-at-the-end" for name in ("first", "second")]
    assert page(*alike).count("<svg") == 1
    assert page(*(f"owner/{letter}" for letter in "abcdef")).count("<svg") == 1


def test_means_are_over_the_domains_that_every_finished_base_has():
    table = means(rows())
    assert [(row["base"], row["domains"], row["better"], row["worse"]) for row in table] == [
        ("owner/a", 1, 1, 0),
        ("<b>", 1, 0, 1),
    ]
    assert table[0]["tuned"] == 0.5, "health was not run with the other base"
    assert means([]) == []


def test_the_table_for_programs_reads_back():
    table = list(csv.DictReader(io.StringIO(bases_csv(rows()))))
    assert list(table[0]) == list(COLUMNS)
    assert [row["state"] for row in table] == ["done", "done", "failed", "waiting", "done"]
    assert (float(table[0]["low"]), int(table[0]["weights_bytes"]), table[0]["came_true"]) == (0.2, 3 * 2**30, "true")
    assert table[2]["tuned"] == ""
    assert table[2]["reason"] == "no <tokenizer>"
