"""What tables of questions hold becomes the same rows, whichever tool wrote them and however it writes values."""

import datetime
import decimal
import json

import pytest

from data.questions.files import read_rows
from data.questions.tables.cells import texts, truth
from raft_errors import BadInput


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (1234567.0, ["1234567"]),
        (2019, ["2019"]),
        (3.5, ["3.5"]),
        (0.0000001, ["0.0000001"]),
        (float("nan"), []),
        ("nan", []),
        (None, []),
        (decimal.Decimal("3.50"), ["3.50"]),
        (datetime.date(2019, 4, 12), ["2019-04-12"]),
        (datetime.datetime(2019, 4, 12), ["2019-04-12"]),
        (datetime.datetime(2019, 4, 12, 10, 30), ["2019-04-12 10:30"]),
        (datetime.time(7, 5), ["07:05"]),
        (True, ["yes"]),
        (b"seven", ["seven"]),
        ("['at 90 degrees', '90 °C']", ["at 90 degrees", "90 °C"]),
        ("[\"the keeper's lamp\", 'a lamp']", ["the keeper's lamp", "a lamp"]),
        ("['one valve' 'two valves']", ["one valve", "two valves"]),  # as numpy writes it
        ("array(['one', 'two'], dtype=object)", ["one", "two"]),
        ("{'text': array(['one'], dtype=object), 'answer_start': array([30])}", ["one"]),
        ("{'text': ['one'], 'answer_start': [30]}", ["one"]),
        ({"value": "Alder", "aliases": ["Old Alder"]}, ["Alder", "Old Alder"]),
        ("('one', 'two')", ["one", "two"]),
        ("(see page 3)", ["(see page 3)"]),
        ("2019-04-12T00:00:00.000Z", ["2019-04-12"]),
        ("2019-04-12 00:00:00", ["2019-04-12"]),
        ("[1, 2, 3]", ["[1, 2, 3]"]),  # an answer about code
        ('{"port": 80}', ['{"port": 80}']),
        ("[see page 3]", ["[see page 3]"]),
        ("[__import__('os').getcwd()]", ["[__import__('os').getcwd()]"]),
    ],
)
def test_a_cell_says_the_same_however_it_is_written(cell, expected):
    assert texts(cell) == expected


def test_cells_of_numpy_and_pandas_are_plain_values():
    import numpy
    import pandas

    cells = [numpy.float64(2019.0), numpy.array(["a", "b"]), pandas.Timestamp("2019-04-12"), pandas.NaT, pandas.NA]
    assert [texts(cell) for cell in cells] == [["2019"], ["a", "b"], ["2019-04-12"], [], []]
    assert truth(numpy.bool_(False)) is False


def test_truth_is_read_as_programs_and_spreadsheets_write_it():
    assert [truth(v) for v in (True, 1, 1.0, "TRUE", "Yes", "wahr", "x")] == [True] * 7
    assert [truth(v) for v in (False, 0, 0.0, "False", "FALSE", "FALSCH", "n")] == [False] * 7
    assert [truth(v) for v in (None, "", float("nan"), "None")] == [None] * 4
    with pytest.raises(ValueError, match="perhaps"):
        truth("perhaps")


@pytest.mark.parametrize("name", ["is_impossible", "Is Impossible", "Is impossible?", "isImpossible", "unanswerable"])
def test_a_flag_is_seen_under_any_name_and_a_false_one_refuses_nothing(tmp_path, name):
    file = tmp_path / "qa.csv"
    file.write_text(f"question,answer,{name}\nWhen?,at noon,False\nWhere?,at sea,TRUE\nWho?,a smith,\n")
    assert [row.answerable for row in read_rows(file)] == [True, False, True]


def test_a_flag_that_says_neither_is_a_fault_of_its_row():
    rows = read_rows([{"question": "When?", "answer": "at noon", "answerable": "perhaps"}])
    assert rows[0].fault.startswith("bad_flag: perhaps")


def test_no_answer_as_an_empty_list_is_a_question_to_be_refused_where_a_context_is_given():
    squad = {"question": "When?", "context": "A wall.", "answers": {"text": [], "answer_start": []}}
    as_text = {**squad, "answers": "{'text': [], 'answer_start': []}"}
    bare = {"question": "When?", "answers": []}  # of nothing: it may as well be missing
    assert [read_rows([row])[0].answerable for row in (squad, as_text, {**squad, "answers": []}, bare)] == [
        False, False, False, True
    ]  # fmt: skip
    assert read_rows([{**squad, "answers": ""}])[0].answerable
    assert not read_rows([{**squad, "answers": {"text": [""], "answer_start": [-1]}}])[0].answerable
    assert not read_rows([{**squad, "answers": ["CANNOTANSWER"]}])[0].answerable
    assert read_rows([{**squad, "is_impossible": False}])[0].answerable


ROWS = [{"question": "When?", "answer": "at noon"}, {"question": "Where?", "answer": "at sea"}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        "\n".join(json.dumps(row) for row in ROWS),
        "\n\n".join(json.dumps(row, indent=1) for row in ROWS),
        json.dumps({"version": 1, "questions": ROWS}),
        json.dumps({"a": ROWS[0], "b": ROWS[1]}),
        json.dumps({"question": {"0": "When?", "1": "Where?"}, "answer": {"0": "at noon", "1": "at sea"}}),
        json.dumps({"question": ["When?", "Where?"], "answer": ["at noon", "at sea"]}),
        json.dumps({"columns": ["question", "answer"], "index": [0, 1], "data": [list(r.values()) for r in ROWS]}),
        json.dumps({"rows": [{"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}),
    ],
)
def test_json_is_read_in_every_layout_that_tools_write(tmp_path, text):
    file = tmp_path / "qa.json"
    file.write_text(text)
    assert [(r.question, r.answers) for r in read_rows(file)] == [("When?", ("at noon",)), ("Where?", ("at sea",))]
    if "\n" in text or text.startswith("["):  # the name may be wrong the other way round
        file = file.rename(tmp_path / "qa.jsonl")
        assert [r.question for r in read_rows(file)] == ["When?", "Where?"]


def test_one_row_alone_is_a_row_and_a_broken_file_says_so(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({**ROWS[0], "answers": [{"text": "at noon"}]}))
    assert [r.answers for r in read_rows(tmp_path / "one.json")] == [("at noon",)]
    lines = "\n".join([json.dumps(ROWS[0]), json.dumps(ROWS[1]), "{oops"])
    (tmp_path / "lines.json").write_text(lines)
    assert [r.fault for r in read_rows(tmp_path / "lines.json")] == ["", "", "bad_json"]
    (tmp_path / "bad.json").write_text(json.dumps(ROWS[0]) + "\n{oops")
    with pytest.raises(BadInput, match=r"bad\.json is not JSON"):
        read_rows(tmp_path / "bad.json")


MUSIQUE = {
    "id": "2hop", "question": "Who looks after the town of the bridge?", "answer": "the smith",
    "answer_aliases": ["smith"], "answerable": True,
    "question_decomposition": [{"answer": "Birch", "paragraph_support_idx": 0},
                               {"answer": "the smith", "paragraph_support_idx": 2}],
    "paragraphs": [
        {"idx": 0, "title": "Birch", "paragraph_text": "Birch has a bridge.", "is_supporting": True},
        {"idx": 1, "title": "Elm", "paragraph_text": "Elm has a hall.", "is_supporting": False},
        {"idx": 2, "title": "Keepers", "paragraph_text": "Birch is kept by the smith.", "is_supporting": True},
    ],
}  # fmt: skip


def test_musique_gives_its_supporting_paragraphs_with_what_each_answers(tmp_path):
    (tmp_path / "dev.jsonl").write_text(json.dumps(MUSIQUE) + "\n")
    (tmp_path / "dev.json").write_text(json.dumps([MUSIQUE]))
    for file in ("dev.jsonl", "dev.json"):
        (row,) = read_rows(tmp_path / file)
        assert (row.answers, row.documents) == (("the smith", "smith"), ("Birch", "Keepers"))
        assert row.passages == (("Birch has a bridge.", "Birch"), ("Birch is kept by the smith.", "the smith"))


def test_hotpot_is_read_as_published_and_as_datasets_has_it():
    pages = [["Boiler", ["It has valves. ", "The red one closes."]], ["Pump", ["It moves heat."]]]
    facts = [["Boiler", 1], ["Pump", 0]]
    published = {"question": "Which?", "answer": "the red one", "context": pages, "supporting_facts": facts}
    columns = {
        **published,
        "context": {"title": [t for t, _ in pages], "sentences": [s for _, s in pages]},
        "supporting_facts": {"title": ["Boiler", "Pump"], "sent_id": [1, 0]},
    }
    for row in (published, columns):
        (got,) = read_rows([row])
        assert got.quotes == ("The red one closes.", "It moves heat.")
        assert got.documents == ("Boiler", "Pump")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "answer": "x", "paragraphs": [{"qas": 5}]},
        {"question": "Who?", "answer": "x", "paragraphs": ["plain text"]},
        {"question": "Who?", "answer": "x", "context": [["t", ["s"]]], "supporting_facts": [7]},
        {"question": "Who?", "answer": "x", "supporting_facts": ["a whole sentence"]},
    ],
)
def test_a_row_that_only_looks_like_a_published_one_is_read_or_dropped_with_its_reason(row):
    rows = read_rows([row, ROWS[0]])
    assert (rows[0].fault in ("", "bad_layout"), rows[1].fault) == (True, "")


def test_what_is_known_to_be_right_comes_before_what_a_system_answered():
    old = {"question": "Who?", "answer": "a guess", "contexts": ["x"], "ground_truths": ["the smith"]}
    new = {"user_input": "Who?", "response": "a guess", "reference": "the smith", "reference_contexts": ["x", "y"]}
    deepeval = {"input": "Who?", "actual_output": "a guess", "expected_output": "the smith", "context": ["x"]}
    assert [read_rows([row])[0].answers for row in (old, new, deepeval)] == [("the smith",)] * 3
    assert read_rows([new])[0].passages == (("x", ""), ("y", ""))


def test_letters_are_composed_as_those_of_the_documents_are():
    (row,) = read_rows([{"question": "Wo?", "answer": "Cafe\u0301 Zu\u0308rich", "document": "Cafe\u0301.md"}])
    assert (row.answers, row.documents) == (("Café Zürich",), ("Café.md",))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("Is it hot?", "TRUE"), ("Isn't it cold?", "false"), ("Who fires it?", "the smith")],
         ["yes", "no", "the smith"]),
        ([("Ist der Ofen heiß?", "TRUE"), ("Brennt er täglich?", "FALSE")], ["yes", "no"]),
        ([("Ist der Ofen heiß?", "TRUE"), ("Wer heizt ihn?", "der Schmied")], ["TRUE", "der Schmied"]),
        ([("What is the default of debug?", "True"), ("Is it hot?", "True")], ["True", "yes"]),
        ([("True or false: the kiln is hot.", "True"), ("Is it hot?", "no")], ["True", "no"]),
    ],
)  # fmt: skip
def test_booleans_that_a_table_wrote_as_texts_are_yes_and_no_where_the_question_asks_whether(tmp_path, pairs, expected):
    file = tmp_path / "qa.csv"
    file.write_text("question,answer\n" + "".join(f"{question},{answer}\n" for question, answer in pairs))
    assert [row.answers for row in read_rows(file)] == [(answer,) for answer in expected]
