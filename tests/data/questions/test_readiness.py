"""A question file or template that cannot be used is found before a corpus is read."""

import json
import shutil

import pytest

from data.questions import QuestionOptions
from data.questions.prompts import OWN_TEMPLATES
from data.questions.readiness import require_prompts, require_question_file
from raft_errors import BadInput


def test_a_question_file_is_looked_into(tmp_path):
    file = tmp_path / "own.jsonl"
    with pytest.raises(BadInput, match="no question file"):
        require_question_file(file)
    for text, words in (
        ("", "holds no rows"),
        ('{"frage": "Was?", "antwort": "Nichts."}\n', "no column for the question: found antwort, frage"),
        ("\nnot JSON\n", r"holds no rows: line 2 and all others cannot be read \(bad JSON\)"),
        ('{"question": "", "answer": "x"}\n{"question": " ", "answer": "y"}\n', "none of 2 rows .*2 empty question"),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=words):
            require_question_file(file)
    file.write_text('{"frage": "Was?", "antwort": "Nichts."}\n{"frage": "", "antwort": "x"}\n')
    assert require_question_file(file, {"question": "frage", "answers": "antwort"}) == 1


@pytest.mark.parametrize(
    ("head", "do"),
    [
        ("Qestion,Anwser", "questions.columns: {question: Qestion}"),
        ("question,Anwsers", "questions.columns: {answers: Anwsers}"),
        ("frage,antwort", "questions.columns: {question: ...}"),
    ],
)
def test_a_column_that_is_misspelt_is_named_with_the_setting_that_takes_it(tmp_path, head, do):
    (tmp_path / "own.csv").write_text(f"{head}\na?,b\n")
    with pytest.raises(BadInput) as caught:
        require_question_file(tmp_path / "own.csv")
    assert caught.value.do == f"rename the column, or name yours: {do}"


def test_a_file_that_is_cut_within_a_letter_is_bad_input(tmp_path):
    (tmp_path / "own.csv").write_bytes("question,answer\na?,b\n".encode("utf-16")[:-1])
    with pytest.raises(BadInput, match="begins as UTF-16 and is cut or damaged at byte"):
        require_question_file(tmp_path / "own.csv")


@pytest.mark.parametrize("style", ["small", "full"])
def test_the_shipped_templates_can_be_used_and_so_can_copies_of_them(style, tmp_path):
    kinds = ("factoid",) if style == "small" else ("factoid", "comparison", "unanswerable", "how_to", "yes_no")
    require_prompts(QuestionOptions(style=style, kinds=kinds))
    shutil.copytree(OWN_TEMPLATES, tmp_path / "own")
    require_prompts(QuestionOptions(style=style, kinds=kinds, templates=tmp_path / "own"))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("full/question.jinja", "{% block user %}{{ text }} {{ titel }}{% endblock %}", "slot titel, which nothing"),
        ("full/question.jinja", "{% block user %}{% if number %}{{ txt }}{% endif %}{{ text }}{% endblock %}", "txt"),
        ("full/question.jinja", "{% block user %}Ask.{% endblock %}", "lacks the slot text"),
        ("full/answer.jinja", "{% block user %}{{ text }} {{ question }}", "answer.jinja"),
        ("full/qestion.jinja", "{% block user %}{{ text }}{% endblock %}", "takes the place of none"),
        ("question.jinja", "{% block user %}{{ text }}{% endblock %}", "takes the place of none"),
        ("reasoning.jinja", "{% block user %}{{ question }}{% endblock %}", "slot question, which nothing fills"),
        ("full/question.jinja", b"{% block user %}{{ text }} \xff{% endblock %}", "cannot be read"),
    ],
)
def test_a_template_that_would_fail_later_fails_now(tmp_path, name, source, words):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(BadInput, match=words):
        require_prompts(QuestionOptions(templates=tmp_path))


def test_a_slot_that_a_template_asks_for_only_where_it_is_there_is_no_fault(tmp_path):
    (tmp_path / "full").mkdir()
    own = "{% block user %}{{ text }}{% if place is defined %} {{ place }}{% endif %}{% endblock %}"
    (tmp_path / "full" / "question.jinja").write_text(own)
    (tmp_path / "README.md").write_text("ours")
    require_prompts(QuestionOptions(templates=tmp_path))


def test_examples_of_the_small_style_are_looked_at(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "examples.json").write_text(json.dumps({"definition": []}))
    with pytest.raises(BadInput, match="does not hold the examples"):
        require_prompts(QuestionOptions(style="small", templates=tmp_path))
