"""The report: rows score what was said, failures are counted, verdicts are right, the page is closed and escaped."""

import json
import re
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pytest
from made_up import ask_all, compose, corpus, make_chunk, make_question

from data.evaluation.promotion import Rule, decide_evaluation
from data.evaluation.row_table import write_rows
from data.nouns import Record
from data.records.compose import RecordOptions
from data.reports.data_card import write_data_card
from data.reports.report import score_row, summarise, summary_markdown, write_report


@pytest.fixture(scope="module")
def records() -> list[Record]:
    chunks = corpus(60)
    return compose(chunks, ask_all(chunks), options=RecordOptions(max_tokens=400, p_oracle=0.75)).train


def answered(record: Record, right: bool) -> str:
    return record.output if right else "<ANSWER>: something else entirely"


def rows_for(records, base_right=0.3, adapter_right=0.8, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for record in records:
        hard = rng.random()
        rows.append(score_row(record, answered(record, hard < base_right), condition="base", seconds=0.5))
        rows.append(score_row(record, answered(record, hard < adapter_right), condition="adapter", seconds=0.4))
    return rows


def test_the_label_itself_scores_full_marks(records):
    for record in records:
        row = score_row(record, record.output, condition="adapter")
        if record.metadata["label"] == "answer":
            metrics = row["metrics"]
            assert (metrics["f1"], metrics["exact_match"], metrics["citation_precision"]) == (1, 1, 1)
            assert (metrics["citation_recall"], metrics["verbatim"]) == (1, 1)
            assert not row["refused"]
        else:
            assert row["refused"]
            assert row["should_refuse"]
            assert row["metrics"]["f1"] is None


def test_a_row_is_plain_json_and_a_missing_answer_has_no_metrics(records):
    row = json.loads(json.dumps(score_row(records[0], None, condition="base")))
    assert row["failed"] == "missing"
    assert row["metrics"] == {}


def test_odd_answers_are_flagged_and_still_scored(records):
    record = next(r for r in records if r.metadata["oracle_present"])
    empty = score_row(record, "", condition="base")
    assert empty["flags"] == ["unmarked", "empty"]
    assert empty["metrics"]["f1"] == 0
    assert score_row(record, record.input, condition="base")["flags"] == ["unmarked", "echo"]
    assert "cut_off" in score_row(record, "and so on", condition="base", finish_reason="length")["flags"]


def test_a_better_adapter_is_called_better_and_a_broken_one_worse(records):
    better = summarise(rows_for(records), samples=500)["headline"]
    assert better["verdict"] == "better"
    assert better["difference"] == pytest.approx(0.5, abs=0.15)
    assert summarise(rows_for(records, 0.8, 0.3), samples=500)["headline"]["verdict"] == "worse"
    same = summarise(rows_for(records, 0.5, 0.5), samples=500)["headline"]
    assert (same["verdict"], same["difference"]) == ("no clear difference", 0)


def test_an_adapter_trained_on_shuffled_answers_is_called_worse_with_confidence(records):
    """It writes perfect form, quotes and all, with the answer of another question."""
    askable = [r for r in records if r.metadata["label"] == "answer"]
    rows = []
    for record, other in zip(askable, askable[1:] + askable[:1], strict=True):
        wrong = record.output.rsplit("<ANSWER>:", 1)[0] + f"<ANSWER>: {other.metadata['answers'][0]}"
        sometimes = answered(record, int(record.metadata["record_id"], 16) % 3 == 0)
        rows.append(score_row(record, sometimes, condition="base"))
        rows.append(score_row(record, wrong, condition="adapter"))
    summary = summarise(rows, samples=2000)
    assert summary["headline"]["verdict"] == "worse"
    difference = summary["settings"]["records"]["differences"]["f1"]
    assert difference["high"] < 0
    assert difference["p_holm"] < 0.01
    assert summary["settings"]["records"]["conditions"]["adapter"]["metrics"]["verbatim"]["value"] == 1


def test_an_adapter_without_effect_is_called_equal_on_every_metric(records):
    rows = rows_for(records, 0.5, 0.5)
    for difference in summarise(rows, samples=500)["settings"]["records"]["differences"].values():
        assert (difference["difference"], difference["low"], difference["high"]) == (0, 0, 0)
        assert difference["verdict"] == "no clear difference"
        assert difference["p_holm"] == 1


def test_a_handful_of_questions_gives_no_verdict_and_no_interval(records, tmp_path):
    few = [r for r in records if r.metadata["label"] == "answer"][:5]
    rows = rows_for(few, 0.0, 1.0)
    summary = summarise(rows, samples=500)
    assert (summary["headline"]["verdict"], summary["headline"]["difference"]) == ("too few to say", 1)
    write_report(tmp_path / "report.html", title="Few", summary=summary, rows=rows)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "So few could not tell" in page
    assert "+100.0 to +100.0" not in page + summary_markdown(summary, title="Few")


def test_a_gain_that_may_be_form_alone_is_said_to_be(records):
    rows = []
    for record in (r for r in records if r.metadata["label"] == "answer"):
        right = record.metadata["answers"][0]
        rows.append(score_row(record, f"<ANSWER>: As far as one can tell, it is {right}.", condition="base"))
        rows.append(score_row(record, f"<ANSWER>: {right}", condition="adapter"))
    summary = summarise(rows, samples=500)
    assert summary["headline"]["verdict"] == "better"
    assert "no gain is certain: +0.0 points" in summary_markdown(summary, title="Form")
    assert "no gain is certain" not in summary_markdown(summarise(rows_for(records), samples=500), title="More")


def test_missing_answers_are_counted_and_leave_the_comparison(records):
    rows = rows_for(records)
    full = summarise(rows, samples=200)["settings"]["records"]
    rows[1] = score_row(records[0], None, condition="adapter")
    part = summarise(rows, samples=200)["settings"]["records"]
    assert part["conditions"]["adapter"]["missing"] == 1
    defined = records[0].metadata["label"] == "answer"
    assert part["differences"]["f1"]["n"] == full["differences"]["f1"]["n"] - defined


def test_one_condition_alone_gives_means_and_no_verdict(records):
    rows = [r for r in rows_for(records) if r["condition"] == "base"]
    summary = summarise(rows, samples=200)
    assert summary["headline"] is None
    assert summary["settings"]["records"]["conditions"]["base"]["metrics"]["f1"]["n"] > 0


def test_settings_are_compared_apart_and_the_retrieved_one_leads(records):
    rows = rows_for(records)
    retrieved = [dict(r, setting="retrieved") for r in rows_for(records, 0.8, 0.3)]
    summary = summarise([*rows, *retrieved], samples=200)
    assert summary["headline_setting"] == "retrieved"
    assert summary["settings"]["records"]["differences"]["f1"]["verdict"] == "better"
    assert summary["settings"]["retrieved"]["differences"]["f1"]["verdict"] == "worse"


def test_slices_and_places_add_up_to_the_whole(records):
    part = summarise(rows_for(records), samples=200)["settings"]["records"]
    for table in part["slices"].values():
        assert sum(entry["records"] for entry in table.values()) == len(records)
    shown = sum(r.metadata["oracle_present"] for r in records)
    assert sum(by["base"]["n"] for by in part["positions"].values()) == shown


class Page(HTMLParser):
    """Checks what an HTML validator checks on such a page: closing order, nesting, attributes; and notes every link."""

    VOID = ("meta", "br", "img", "link", "input", "hr")
    PHRASING = ("p", "h1", "h2", "h3", "summary", "figcaption", "span", "strong", "code", "mark", "b")
    BLOCK = ("p", "div", "table", "section", "ul", "ol", "figure", "details", "h1", "h2", "h3", "header", "main")
    PARENT: ClassVar = {
        "thead": ("table",),
        "tbody": ("table",),
        "tr": ("thead", "tbody"),
        "td": ("tr",),
        "th": ("tr",),
        "li": ("ul", "ol"),
        "summary": ("details",),
        "figcaption": ("figure",),
        "title": ("head", "rect"),
        "option": ("select",),
    }
    SVG = ("svg", "line", "rect", "circle", "polyline", "path", "text", "g", "title")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "data", "srcset", "background")]
        names = [k for k, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        for name, value in attrs:
            if name == "id":
                assert value not in self.ids, f"id {value} twice"
                self.ids.add(value)
        above = self.open[-1] if self.open else ""
        if tag in self.PARENT:
            assert above in self.PARENT[tag], f"{tag} in {above}"
        if tag in self.BLOCK:
            wrapped = [t for t in self.open if t in self.PHRASING]
            assert not wrapped or (tag[0] == "h" and wrapped == ["summary"]), f"{tag} in {wrapped}"
        assert "svg" not in self.open or tag in self.SVG, f"{tag} in svg"
        if tag == "html":
            assert dict(attrs).get("lang")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open, f"<{tag}/> outside svg"
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    page = Page()
    page.feed(text)
    assert not page.open
    for tag in ("html", "head", "body", "main", "h1"):
        assert page.tags.count(tag) == 1
    return text, page


FULL = {
    "retrieval": {"recall@1": 0.5, "recall@5": 0.8, "any_hit@5": 0.9, "mrr": 0.61},
    "training": {"loss": [[1, 3.0], [2, 2.0], [3, 1.5]], "validation_loss": [[3, 1.7]], "steps": 3},
    "config": {"train": {"rank": 16, "targets": ["q", "v"]}},
    "lineage": {"ingest": "abc", "train": "def"},
}


def test_the_page_is_well_formed_self_contained_and_shows_every_part(records, tmp_path):
    rows = rows_for(records)
    path = tmp_path / "report.html"
    write_report(path, title="Trial", summary=summarise(rows, samples=200), rows=rows, **FULL)
    text, page = page_of(path)
    assert page.links == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert "script" not in page.tags
    for part in ("Exact match", "Citation precision", "By oracle", "Retriever", "Loss"):
        assert part in text
    for part in ("Oracles among the first 5 (recall@5)", "Questions with an oracle among the first 5 (any-hit@5)"):
        assert part in text
    for part in ("train.rank", "abc", "gained most", "<mark>", "prefers-color-scheme", "width=device-width"):
        assert part in text
    again = tmp_path / "again.html"
    write_report(again, title="Trial", summary=summarise(rows, samples=200), rows=rows, **FULL)
    assert again.read_bytes() == path.read_bytes()


def test_what_documents_and_models_say_cannot_become_markup(tmp_path):
    evil = "<script>alert(1)</script> & <img src=x onerror=y>"
    chunks = [make_chunk(i, 0, f"Key{i} {evil} and text number {i} to tell it apart.") for i in range(12)]
    records = compose(chunks, [make_question([c], f"Key{i}", f"{evil} {i}?") for i, c in enumerate(chunks)], mined={})
    rows = []
    for record in records.train:
        rows.append(score_row(record, f"{evil} no", condition="base"))
        rows.append(score_row(record, record.output, condition="adapter"))
    path = tmp_path / "report.html"
    config = {"<b>key</b>": evil}
    write_report(path, title=evil, summary=summarise(rows, samples=100), rows=rows, config=config)
    text, page = page_of(path)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "&lt;script&gt;" in text


def test_a_report_without_any_comparison_or_extra_part_can_still_be_written(records, tmp_path):
    for rows in ([], [score_row(records[0], None, condition="base")]):
        path = tmp_path / "report.html"
        write_report(path, title="Nothing", summary=summarise(rows), rows=rows)
        assert "no comparison" in page_of(path)[0]


def test_the_markdown_summary_states_headline_and_failures(records):
    rows = rows_for(records)
    rows[1] = score_row(records[0], None, condition="adapter")
    text = summary_markdown(summarise(rows, samples=200), title="Trial <b>")
    assert "**higher**" in text
    assert "1 of" in text
    assert "| Token F1 |" in text
    assert "<b>" not in text


def test_the_card_states_the_figures_of_the_records(tmp_path):
    chunks = corpus(40)
    result = compose(chunks, ask_all(chunks))
    write_data_card(tmp_path, result.report, title="Trial | <set>", extra={"teacher": "none"}, samples=result.train[:3])
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert card["records"]["train"] == len(result.train)
    assert f"{sum(card['records'].values())} RAFT records" in text
    assert "- Near-duplicates of another document: 0 of" in text
    assert "Leaks found between splits: 0" in text
    assert "teacher: none" in text
    page_text, page = page_of(tmp_path / "card.html")
    assert page.links == []
    assert "&lt;set&gt;" in page_text
    assert result.train[0].metadata["question"] in page_text
    assert "<mark>" in page_text


def test_scores_that_are_not_numbers_are_counted_and_never_a_zero(records, tmp_path):
    rows = rows_for(records)
    whole = summarise(rows, samples=200)["settings"]["records"]
    spoilt = next(r for r in rows if r["condition"] == "adapter" and r["metrics"]["f1"] is not None)
    spoilt["metrics"]["f1"] = float("nan")
    part = summarise(rows, samples=200)
    figures = part["settings"]["records"]
    assert figures["conditions"]["adapter"]["not_finite"] == 1
    assert figures["differences"]["f1"]["n"] == whole["differences"]["f1"]["n"] - 1
    write_report(tmp_path / "r.html", title="T", summary=part, rows=rows)
    assert "1 score is not a finite number" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_earlier_adapter_is_measured_in_the_same_pass(records, tmp_path):
    rows = rows_for(records, 0.2, 0.9)
    rows += [dict(r, condition="last week") for r in rows_for(records, 0.2, 0.5) if r["condition"] == "adapter"]
    summary = summarise(rows, samples=500)
    assert summary["headline"]["verdict"] == "better"
    assert summary["against"]["last week"]["verdict"] == "better"
    assert summary["against"]["last week"]["base"] < summary["headline"]["other"]
    write_report(tmp_path / "r.html", title="T", summary=summary, rows=rows)
    assert "last week" in page_of(tmp_path / "r.html")[0]
    assert "| last week |" in summary_markdown(summary, title="T")


def test_rows_are_written_as_a_table_of_flat_columns(records, tmp_path):
    import pyarrow.parquet as pq

    rows = [*rows_for(records), score_row(records[0], None, condition="base")]
    write_rows(tmp_path / "rows.parquet", rows)
    table = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(table) == len(rows)
    for row, line in zip(rows, table, strict=True):
        assert line["f1"] == row["metrics"].get("f1")
        assert line["slice_question_kind"] == row["slices"]["question kind"]
        assert [q["text"] for q in line["quotes"]] == [q["text"] for q in row["quotes"]]
    write_rows(tmp_path / "again.parquet", rows)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "rows.parquet").read_bytes()
    write_rows(tmp_path / "none.parquet", [])


def test_page_and_summary_give_the_verdict_of_the_gate_and_no_other(records, tmp_path):
    """Answers that are better are no better adapter where it has forgotten what the base could."""
    rows = rows_for(records, 0.2, 0.9)
    summary = summarise(rows, samples=500)
    general = {"loss": {"difference": 0.7}}
    decision = decide_evaluation(summary, general, Rule(margin=1, least_questions=1)).to_dict()
    assert (summary["headline"]["verdict"], decision["verdict"]) == ("better", "hold")
    training = {"records": 120, "records_too_long": 0, "records_seen": 12}
    training |= {"steps": 4, "steps_taken": 4, "steps_of_all_epochs": 54}
    training |= {"distil_steps": 2, "distil_kept": False, "distil_loss_before": 1.5, "distil_loss_after": 1.6}
    training |= {"distil_kl_before": 0.03, "distil_kl_after": 0.01}
    write_report(tmp_path / "r.html", title="T", summary=summary, decision=decision, training=training, rows=rows)
    text = page_of(tmp_path / "r.html")[0]
    head = text[text.index('<div class="headline">') : text.index("</header>")]
    assert '<strong class="bad">hold</strong>' in head
    assert "better" not in re.sub(r"<[^>]*>", "", head)
    assert "+0.700 nats per token" in head
    assert "only 12 of 120 records were seen" in head
    assert "<td>steps of all epochs</td><td>54</td>" in text
    assert not re.search(r"<td>[a-z]+_[a-z_]+</td>", text), "a raw key"
    assert "After the training: 2 steps of distillation: validation loss 1.5000 → 1.6000" in head
    markdown = summary_markdown(summary, title="T", decision=decision, training=training)
    assert "**hold**" in markdown
    assert "**better**" not in markdown
    assert "only 12 of 120 records were seen" in markdown
    assert "0.0300 → 0.0100, dropped." in markdown
