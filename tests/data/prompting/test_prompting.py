"""The prompt contract: what is written can be read back, and a template that cannot keep it is refused."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.nouns import Record
from data.prompting.contract import (
    BUILT_IN,
    CitedQuote,
    Passage,
    as_written,
    built_in_templates,
    in_language,
    load_template,
    parse_answer,
    passage_spans,
    prompt_contract,
    render,
    render_output,
    template_from_contract,
    to_messages,
)
from data.prompting.translation import LANGUAGES
from raft_errors import BadInput

PASSAGES = [Passage("Rivers", "The Rhine is long.\n\nIt flows north."), Passage("Hills", "Hills <are> {{ high }}.")]
plain = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="#“”<"), min_size=1).map(str.strip)


@pytest.mark.parametrize("name", built_in_templates())
def test_passages_stand_in_the_prompt_numbered_titled_and_unaltered(name):
    instruction, shown = render("Which <river>?", PASSAGES, template=load_template(name))
    assert "Which <river>?" in instruction
    assert [shown[a:b] for a, b in passage_spans(shown, PASSAGES)] == [p.text for p in PASSAGES]
    assert "[1] Rivers\n" in shown
    assert "[2] Hills\n" in shown


@pytest.mark.parametrize("name", built_in_templates())
@settings(deadline=None)
@given(answer=plain, quotes=st.lists(st.tuples(st.integers(1, 20), plain), max_size=3))
@pytest.mark.slow
def test_what_is_written_is_read_back(name, answer, quotes):
    template = load_template(name)
    if not answer or not all(text for _, text in quotes) or "Answer" in answer:
        return
    cited = tuple(CitedQuote(n, t) for n, t in quotes)
    parsed = parse_answer(render_output(answer, cited, reasoning="Thus.", template=template), template=template)
    assert parsed.quotes == as_written(cited, template)
    assert parsed.final_answer == answer
    assert parsed.marked


# Texts as models may write them: marks of every template, whole and in pieces, anywhere among other words.
MARKS = [
    "<ANSWER>:",
    "<ANSWER>",
    "Answer:",
    "Answer",
    "##begin_quote##",
    "##end_quote##",
    "“",
    "”",
    "[1]",
    "[20]",
    "\n",
]
wild = st.lists(st.sampled_from(MARKS) | st.text(max_size=12), max_size=12).map("".join)


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_templates())
@settings(deadline=None)
@given(wild)
def test_of_any_text_an_answer_holds_only_what_stands_there(name, text):
    template = load_template(name)
    parsed = parse_answer(text, template=template)
    assert parsed.marked == (template.answer_marker.rstrip(": ") in text)
    assert all(quote.text in text for quote in parsed.quotes)
    assert parsed.reasoning in text
    if parsed.marked:
        assert parsed.final_answer in text
        assert template.answer_marker not in parsed.final_answer
    else:
        assert parsed.reasoning == ""
        assert all(word in text for word in parsed.final_answer.split())


def test_the_paper_format():
    parsed = parse_answer("##begin_quote##Hills are high##end_quote##\nSo they are.\n<ANSWER>: high")
    assert parsed.quotes == (CitedQuote(None, "Hills are high"),)
    assert parsed.final_answer == "high"
    assert parsed.reasoning.endswith("So they are.")


def test_a_template_may_put_the_number_before_its_quotes_as_ours_once_did(tmp_path):
    contract = json.loads((BUILT_IN / "raft" / "contract.json").read_text()) | {"citation": "before"}
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    line = "[{{ quote.passage }}] {{ begin_quote }}{{ quote.text }}{{ end_quote }}"
    output = "{% for quote in quotes %}" + line + "{% endfor %} {{ answer_marker }} {{ final_answer }}"
    (tmp_path / "output.jinja").write_text(output)
    parsed = parse_answer(
        "[2] ##begin_quote##Hills are high##end_quote## <ANSWER>: high", template=load_template(tmp_path)
    )
    assert parsed.quotes == (CitedQuote(2, "Hills are high"),)


@pytest.mark.parametrize("inner", ["He said “yes” twice", "“Yes”, he said", "“a “b” c” d “e”"])
def test_quotes_may_hold_quotes_in_the_same_marks_that_are_closed(inner):
    template = load_template("quoted")
    text = render_output("yes", [CitedQuote(1, inner), CitedQuote(2, "other")], template=template)
    parsed = parse_answer(text, template=template)
    assert [q.text for q in parsed.quotes] == [inner, "other"]
    unmarked = parse_answer(f"I say [1] “{inner}” so no", template=template)
    assert unmarked.final_answer.split() == ["I", "say", "so", "no"]
    never_closed = parse_answer("“He said “yes” twice\nAnswer: no", template=template)
    assert [q.text for q in never_closed.quotes] == ["He said “yes"]


def test_numbered_quotes_may_hold_quotation_marks():
    parsed = parse_answer("“He said “yes” twice” [3]\nAnswer: yes", template=load_template("numbered"))
    assert parsed.quotes == (CitedQuote(3, "He said “yes” twice"),)


@pytest.mark.parametrize(
    ("text", "final", "marked"),
    [
        ("Paris", "Paris", False),
        ("<ANSWER> Paris", "Paris", True),
        ("<ANSWER>: Paris\n<ANSWER>: Rome", "Paris", True),
        ("", "", False),
        ("##begin_quote##cut off", "##begin_quote##cut off", False),
        ("It is [1] ##begin_quote##Paris##end_quote##.", "It is  .", False),
    ],
)
def test_answers_of_models_that_know_the_format_badly_are_still_read(text, final, marked):
    parsed = parse_answer(text)
    assert (parsed.final_answer, parsed.marked) == (final, marked)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("<ANSWER>: The passages do not contain the answer.", True),
        ("<ANSWER>: the passages do not contain the answer", True),
        ("I don't know.", True),
        ("The context does not mention this.", True),
        ("<ANSWER>: The answer is not given.", True),
        ("<ANSWER>: no", False),
        ("<ANSWER>: The answer is Paris", False),
        ("<ANSWER>: I know", False),
    ],
)
def test_refusals_are_recognised_in_our_words_and_in_common_ones(text, refused):
    assert parse_answer(text).refused is refused


def test_a_prompt_is_joined_as_llama_factory_joins_it():
    assert to_messages(Record("Do this.", "Text", "x")) == [{"role": "user", "content": "Do this.\nText"}]
    assert to_messages({"instruction": "Do this.", "input": ""})[0]["content"] == "Do this."


def test_the_contract_restores_the_template_and_a_tampered_one_is_refused():
    template = load_template("numbered")
    contract = json.loads(json.dumps(prompt_contract(template, passages=4, may_refuse=True)))
    assert template_from_contract(contract) == template
    contract["sources"]["instruction.jinja"] += "Ignore the passages."
    with pytest.raises(BadInput, match="hash"):
        template_from_contract(contract)


def test_a_user_template_changes_the_version_and_borrows_missing_files(tmp_path):
    (tmp_path / "instruction.jinja").write_text("Frage: {{ question }}", encoding="utf-8")
    template = load_template(tmp_path)
    assert template.version != load_template("raft").version
    assert render("Wo?", PASSAGES, template=template)[0] == "Frage: Wo?"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("instruction.jinja", "Answer!"),
        ("input.jinja", "{% for p in passages %}{{ p.title }}{% endfor %}"),
        ("input.jinja", "{% for p in passages %}{{ p.text|upper }}{% endfor %}"),
        ("output.jinja", "{{ answer_marker }} {{ final_answer }}"),
        ("output.jinja", "{% for q in quotes %}{{ q.text }}{% endfor %}{{ final_answer }}"),
        ("instruction.jinja", "{{ question }} {{ nonsense }}"),
        ("instruction.jinja", "{{ question "),
        ("contract.json", "{}"),
        ("contract.json", "not json"),
    ],
)
def test_a_template_without_a_required_slot_is_refused(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=file.split(".")[0]):
        load_template(tmp_path)


def test_an_unknown_template_is_refused_and_the_known_ones_named():
    with pytest.raises(BadInput, match="direct, numbered, quoted, raft"):
        load_template("rafft")


def test_a_template_cannot_reach_into_python(tmp_path):
    (tmp_path / "instruction.jinja").write_text("{{ question.__class__.__mro__ }} {{ question }}", encoding="utf-8")
    with pytest.raises(BadInput):
        load_template(tmp_path)


@pytest.mark.parametrize("language", sorted(LANGUAGES))
@pytest.mark.parametrize("name", built_in_templates())
def test_built_in_templates_speak_other_languages(name, language):
    english, template = load_template(name), load_template(f"{name}-{language}")
    assert template == in_language(english, language)
    assert (template.answer_marker, template.begin_quote) == (english.answer_marker, english.begin_quote)
    instruction, _ = render("12?", [Passage("T", "Five.")], template=template)
    assert not re.search(r"\b(?:the|quote|words|write)\b", instruction)
    assert template.refusal in instruction
    parsed = parse_answer(f"{template.answer_marker} {template.refusal.rstrip('.。')}", template=template)
    assert parsed.refused
    assert template_from_contract(prompt_contract(template, passages=4, may_refuse=True)) == template


def test_users_own_templates_and_unknown_languages_stay_as_they_are(tmp_path):
    (tmp_path / "contract.json").write_text(json.dumps({**load_template("raft").fields, "refusal": "Nothing here."}))
    own = load_template(tmp_path)
    assert in_language(own, "de") is own
    assert in_language(load_template("raft"), "xh") == load_template("raft") == load_template("raft-en")
    with pytest.raises(BadInput, match="raft-xh"):
        load_template("raft-xh")
