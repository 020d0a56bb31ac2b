"""What a diff says of two data sets: edited and deleted documents show, untouched records do not."""

from made_up import ask_all, compose, corpus, everything, mine

from data.records.compose import RecordOptions
from data.records.diff import RecordDiff, diff_records


def test_the_same_records_do_not_differ():
    chunks = corpus(20)
    records = everything(compose(chunks, ask_all(chunks)))
    diff = diff_records(records, records)
    assert (diff.same, diff.changed, diff.added, diff.removed) == (len(records), [], [], [])


def test_further_arrangements_of_a_question_are_told_apart():
    chunks = corpus(20)
    options = RecordOptions(arrangements=2, max_tokens=400)
    once, twice = (
        everything(compose(chunks, ask_all(chunks), options=o)) for o in (RecordOptions(max_tokens=400), options)
    )
    diff = diff_records(once, twice)
    assert (diff.same, diff.changed, diff.removed) == (len(once), [], [])
    assert len(diff.added) == len(twice) - len(once)


def test_a_deleted_document_retires_its_questions_and_its_uses_as_distractor():
    chunks = corpus(40)
    questions = ask_all(chunks)
    mined = mine(questions, chunks)
    rows = [row for r in compose(chunks, questions, mined=mined).train for row in r.metadata["passages"]]
    gone = next(row["document_id"] for row in rows if row["role"] == "distractor")
    left = [c for c in chunks if c.document_id != gone]
    kept = [q for q in questions if gone not in q.document_ids]
    before, after = everything(compose(chunks, questions, mined=mined)), everything(compose(left, kept, mined=mined))
    diff = diff_records(before, after)
    assert set(diff.removed) >= {q.id for q in questions if gone in q.document_ids}
    assert gone in diff.documents_retired
    assert all(row["document_id"] != gone for r in after for row in r.metadata["passages"])
    assert diff.why.keys() >= {"distractors"}
    assert diff.same > len(after) / 2


def test_a_new_share_of_oracles_is_named_as_the_reason():
    chunks = corpus(20)
    questions = ask_all(chunks)
    first, second = (
        everything(compose(chunks, questions, options=RecordOptions(p_oracle=p, max_tokens=400))) for p in (1.0, 0.5)
    )
    diff = diff_records(first, second)
    assert diff.why["oracle shown or not"] == len(diff.changed)
    assert abs(len(diff.changed) - len(first) / 2) <= 1.5  # half of each split
    assert "records are the same" in diff.lines()[0]


def test_one_of_each_is_told_as_one():
    lines = RecordDiff(["a"], ["b"], ["c"], 1, {"split": 1}, ["d"], ["e"]).lines()
    assert lines[0] == "1 record is the same"
    assert lines[2:] == [
        "1 was added, 1 removed",
        "1 document is no longer used, as oracle or distractor",
        "1 document is used for the first time",
    ]
