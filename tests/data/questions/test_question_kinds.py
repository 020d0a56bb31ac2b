"""A comparison rests on two chunks, an unanswerable question on none, and a reply may come as a JSON object."""

import json

import pytest
from made_up import ask_all, chunk_of, compose, corpus, everything, make_question

from data.nouns import Hit
from data.prompting.contract import load_template, parse_answer
from data.questions import QuestionOptions, generate_questions
from data.questions.answers import NOT_ANSWERABLE, as_written, full_answer, is_refusal
from data.teachers import ReplayTeacher
from raft_errors import BadInput

RED = chunk_of("Boiler", "The red valve of the boiler closes at 90 degrees. It is made of brass.")
BLUE = chunk_of("Boiler", "The blue valve of the boiler closes at 40 degrees. It is made of steel.", 1)
FAR = chunk_of("Tank", "The green valve of the tank closes at 10 degrees and stays shut until noon.")
CHUNKS = [RED, BLUE, FAR]
COMPARED = "At how many degrees do the red valve and the blue valve of the boiler close?"
BOTH = (
    "<quote>The red valve of the boiler closes at 90 degrees</quote>\n"
    "<quote>The blue valve of the boiler closes at 40 degrees</quote>\nEach is named.\n"
    "Answer: red at 90 degrees, blue at 40 degrees"
)


def all_of_them(queries, k):
    return [[Hit(c.id, 1.0 / n, n) for n, c in enumerate(CHUNKS, 1)][:k] for _ in queries]


def ask(kind, question, answer, chunks=CHUNKS, **options):
    def reply(messages):
        return answer if "\nQuestion: " in messages[-1]["content"] else question

    teacher = ReplayTeacher(default=reply, name="big")
    settings = QuestionOptions(kinds=(kind,), max_questions=1, **options)
    made = generate_questions(chunks, teacher, all_of_them, options=settings)
    assert made.counts["asked"] == len(made.questions) + len(made.dropped)
    return made, teacher


def test_a_comparison_is_quoted_from_both_chunks_of_one_document():
    made, teacher = ask("comparison", COMPARED, BOTH, [RED, BLUE])
    (question,) = made.questions
    assert question.kind == "comparison"
    assert set(question.gold_chunk_ids) == {RED.id, BLUE.id}
    assert question.document_ids == (RED.document_id,)
    texts = {c.id: c.text for c in CHUNKS}
    assert {q.chunk_id for q in question.quotes} == {RED.id, BLUE.id}
    assert all(q.text in texts[q.chunk_id] for q in question.quotes)
    assert all("Second passage" in m[-1]["content"] for m in teacher.calls[:1])


def test_a_comparison_that_one_chunk_answers_is_dropped():
    one = "<quote>The red valve of the boiler closes at 90 degrees</quote>\nAnswer: red at 90 degrees"
    over = f"{BOTH.splitlines()[0]}\n<quote>It is made of brass.\n\nBoiler\nThe blue valve</quote>\nAnswer: 90 degrees"
    for answer in (one, over):
        made, _ = ask("comparison", COMPARED, answer, [RED, BLUE])
        assert made.counts["dropped"] == {"one_sided": 1}


def test_without_a_second_chunk_a_comparison_becomes_a_plain_question():
    answer = BOTH.splitlines()[0] + "\nAnswer: 90 degrees"
    made, teacher = ask("comparison", "At how many degrees does the red valve close?", answer, [RED])
    assert [q.kind for q in made.questions] == ["factoid"]
    assert "Second passage" not in teacher.calls[0][-1]["content"]


def test_a_question_that_nothing_retrieved_answers_is_kept_to_be_refused():
    made, teacher = ask("unanswerable", "At how many degrees does the valve open again?", NOT_ANSWERABLE)
    (question,) = made.questions
    assert (question.kind, question.answer, question.quotes) == ("unanswerable", "", ())
    shown = teacher.calls[-1][-1]["content"]
    assert all(c.text in shown for c in CHUNKS)  # its own chunk and what the retriever finds


def test_a_question_that_was_to_have_no_answer_and_has_one_is_dropped():
    made, _ = ask("unanswerable", "At how many degrees does the red valve close?", BOTH)
    assert made.counts["dropped"] == {"answerable": 1}


def test_both_kinds_become_sound_records():
    chunks = corpus(20)
    template = load_template()
    for kind, gold in (("comparison", chunks[:2]), ("unanswerable", chunks[:1])):
        answer = "" if kind == "unanswerable" else "both of them"
        extra = {"quotes": ()} if kind == "unanswerable" else {}
        asked = make_question(gold, answer, f"What of the {kind}?", kind=kind, **extra)
        records = everything(compose(chunks, [*ask_all(chunks)[3:], asked]))
        record = next(r for r in records if r.metadata["question_id"] == asked.id)
        said = parse_answer(record.output, template=template)
        if kind == "unanswerable":
            assert said.refused
            assert not said.quotes
        elif record.metadata["oracle_present"]:
            assert {q.passage for q in said.quotes} == set(record.metadata["oracle_positions"])
            assert len(record.metadata["oracle_positions"]) == 2


def test_a_small_teacher_is_not_asked_for_what_it_cannot_do():
    with pytest.raises(BadInput, match="capable teacher"):
        QuestionOptions(style="small", kinds=("comparison",))


def test_an_answer_as_a_json_object_is_read_like_the_written_one():
    said = {"answerable": True, "quotes": ["The red valve of the boiler closes at 90 degrees"], "reasoning": "Named."}
    reply = "Sure:\n```json\n" + json.dumps({**said, "answer": "90 degrees"}) + "\n```"
    answer = full_answer("When does the red valve close?", reply, RED.text, max_words=9)
    assert (answer.final, answer.quotes, answer.reasoning) == ("90 degrees", tuple(said["quotes"]), "")
    assert is_refusal(json.dumps({**said, "answerable": False, "answer": ""}))
    loose = {"quotes": said["quotes"][0], "reasoning": ["Named."]}
    for written in (["90 degrees"], [["90 degrees"]], {"text": "90 degrees"}):
        answer = full_answer(
            "When does it close?", json.dumps({**said, **loose, "answer": written}), RED.text, max_words=9
        )
        assert (answer.final, answer.quotes) == ("90 degrees", tuple(said["quotes"]))
    assert as_written(json.dumps({**said, "answer": 12.5})).endswith("Answer: 12.5")
    assert as_written(json.dumps({**said, "answer": ["a", "b"]})).endswith("Answer: a, b")
    assert as_written(json.dumps({**said, "answer": None})).endswith("Answer: ")
    for no in ("false", "False", "no", 0):
        assert is_refusal(json.dumps({**said, "answerable": no, "answer": "90 degrees"}))
    for yes in ("true", True, None, "partly"):
        assert not is_refusal(json.dumps({**said, "answerable": yes, "answer": "90 degrees"}))
    for other in ("{", '{"answer": 3}', "Answer: {x}", NOT_ANSWERABLE, ""):
        assert as_written(other) == other
