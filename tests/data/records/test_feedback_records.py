"""Accepted feedback is trained on and has no part in the exam: not a question, not a say in what is held out."""

import dataclasses

import pytest
from made_up import ask_all, compose, corpus, make_question

from data.nouns import FEEDBACK, digest
from data.records.splits import SplitOptions, split_by_document

CHUNKS = corpus(40, per_document=2)
ASKED = ask_all(CHUNKS)


def say(chunks, answer, question):
    """Accepted feedback about some chunks."""
    one = make_question(chunks, answer, question)
    return dataclasses.replace(one, origin=FEEDBACK, id=digest(one.question, *one.gold_chunk_ids, FEEDBACK))


def of_side(side, count=1):
    splits = split_by_document(CHUNKS, ASKED)
    return [chunk for chunk in CHUNKS if splits.of[chunk.document_id] == side][:count]


def records_of(result):
    return {
        record.metadata["question_id"]: split
        for split in ("train", "validation", "test")
        for record in getattr(result, split)
    }


def answer_in(chunk):
    return " ".join(chunk.text.split()[:3])


def test_it_has_no_say_in_what_is_held_out():
    both = [CHUNKS[0], CHUNKS[-1]]
    much = [say([CHUNKS[0]], answer_in(CHUNKS[0]), f"Feedback number {n}?") for n in range(200)]
    tied = say(both, answer_in(CHUNKS[0]), "What do both say?")
    assert split_by_document(CHUNKS, [*ASKED, *much, tied]) == split_by_document(CHUNKS, ASKED)


@pytest.mark.parametrize("side", ["validation", "test"])
def test_what_is_about_a_held_out_document_is_left_out_and_counted(side):
    (held,) = of_side(side)
    said = say([held], answer_in(held), "What did somebody ask about this?")
    before, after = compose(CHUNKS, ASKED), compose(CHUNKS, [*ASKED, said])
    assert said.id not in records_of(after)
    assert after.report["dropped"]["feedback_on_held_out"] == 1
    assert (after.validation, after.test) == (before.validation, before.test)


def test_what_is_about_a_training_document_is_trained_on_and_the_exam_stays_as_it_is():
    (own,) = of_side("train")
    said = say([own], answer_in(own), "What did somebody ask about this?")
    before, after = compose(CHUNKS, ASKED), compose(CHUNKS, [*ASKED, said])
    assert records_of(after)[said.id] == "train"
    assert after.report["origins"][FEEDBACK] == 1
    assert {r.metadata["question_id"] for r in after.test} == {r.metadata["question_id"] for r in before.test}


def test_a_question_over_a_training_and_a_held_out_document_is_left_out():
    own, held = of_side("train")[0], of_side("test")[0]
    said = say([own, held], answer_in(own), "What do both say?")
    assert compose(CHUNKS, [*ASKED, said]).report["dropped"]["feedback_on_held_out"] == 1


def test_it_never_asks_word_for_word_what_the_exam_asks():
    own, held = of_side("train")[0], of_side("test")[0]
    examined = next(q for q in ASKED if q.gold_chunk_ids == (held.id,))
    said = say([own], answer_in(own), examined.question.upper())
    after = compose(CHUNKS, [*ASKED, said])
    assert said.id not in records_of(after)
    assert records_of(after)[examined.id] == "test"


def test_it_takes_the_place_of_a_training_question_that_it_corrects():
    (own,) = of_side("train")
    old = next(q for q in ASKED if q.gold_chunk_ids == (own.id,))
    said = say([own], answer_in(own), old.question)
    after = compose(CHUNKS, [*ASKED, said])
    assert old.id not in records_of(after)
    assert records_of(after)[said.id] == "train"
    assert after.report["dropped"]["corrected_by_feedback"] == 1


def test_seen_questions_of_the_test_are_never_feedback():
    from data.records.draft import RecordOptions

    said = [say([c], answer_in(c), f"What of {c.id}?") for c in of_side("train", 20)]
    after = compose(CHUNKS, [*ASKED, *said], options=RecordOptions(seen_test=0.5))
    assert {records_of(after).get(one.id, "train") for one in said} == {"train"}
    assert SplitOptions().test
