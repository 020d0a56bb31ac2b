"""What must hold of every record: the oracle whole, its share exact, no leak, no quote of a hidden text."""

import dataclasses
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import WORDS, ask_all, compose, corpus, everything, make_chunk, make_question, mine, words

from data.nouns import Quote, read_jsonl, write_jsonl
from data.prompting.contract import load_template, parse_answer
from data.records.compose import RecordOptions, measured_p
from data.records.figures import find_leaks, passage_texts
from data.records.splits import SPLITS, SplitOptions, split_by_document
from data.reports.data_card import data_card_markdown
from raft_errors import BadInput


@st.composite
def corpora(draw):
    documents = draw(st.integers(5, 14))
    chunks = []
    body = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)
    for d in range(documents):
        for o in range(draw(st.integers(1, 3))):
            chunks.append(make_chunk(d, o, draw(body) + draw(st.sampled_from(["", "\n\n- item", " “x” [2]", " é𝔘"]))))
    questions = []
    for i, chunk in enumerate(chunks):
        gold = [chunk]
        if draw(st.integers(0, 5)) == 0:
            gold = list(dict.fromkeys([chunk, draw(st.sampled_from(chunks))]))
        kind = "unanswerable" if draw(st.integers(0, 7)) == 0 else "factoid"
        answer = "" if kind == "unanswerable" else draw(st.sampled_from(chunk.text.split()))
        questions.append(make_question(gold, answer, f"Question number {i} on {answer}?", kind=kind))
    most = draw(st.integers(0, 4))
    options = RecordOptions(
        distractors=most,
        min_distractors=draw(st.sampled_from([None, None, most // 2])),
        p_oracle=draw(st.sampled_from([0.0, 0.5, 0.8, 1.0])),
        absent=draw(st.sampled_from(["answer", "refuse", "mix"])),
        max_tokens=draw(st.integers(75, 220)),
        overhead_tokens=4,
        seen_test=draw(st.sampled_from([0.0, 0.2])),
        order=draw(st.sampled_from(["hashed", "retrieved"])),
        arrangements=draw(st.sampled_from([1, 1, 3])),
    )
    return chunks, questions, options, draw(st.sampled_from(["raft", "numbered", "direct"])), draw(st.integers(0, 99))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(corpora())
def test_every_record_of_any_corpus_is_sound(case):
    chunks, questions, options, template_name, seed = case
    template = load_template(template_name)
    try:
        splits = split_by_document(
            chunks, questions, seed=seed, options=SplitOptions(validation=0.2, test=0.2, near_duplicate=0.9)
        )
        result = compose(chunks, questions, options=options, seed=seed, splits=splits, template=template)
    except BadInput:  # too few documents, or a budget below every question: said, not worked around
        return
    by_id, asked = {c.id: c for c in chunks}, {q.id: q for q in questions}
    records = everything(result)
    first = [r for r in records if r.metadata["arrangement"] == 0]
    assert len(first) + len(result.dropped) == len(questions)
    assert len({r.metadata["question_id"] for r in first}) == len(first)
    assert len({r.metadata["record_id"] for r in records}) == len(records)
    assert not find_leaks({s: getattr(result, s) for s in SPLITS}, splits)
    for record in records:
        meta, question = record.metadata, asked[record.metadata["question_id"]]
        texts = passage_texts(record)
        assert all(text == by_id[row["chunk_id"]].text for row, text in texts)
        assert len({row["chunk_id"] for row, _ in texts}) == len(texts) >= 1
        assert len(texts) <= options.distractors + max(1, len(question.gold_chunk_ids))
        oracles = [i for i, (row, _) in enumerate(texts, 1) if row["role"] == "oracle"]
        assert sorted(meta["oracle_positions"]) == oracles
        assert meta["oracle_present"] == bool(oracles)
        if oracles:
            assert {texts[i - 1][0]["chunk_id"] for i in oracles} == set(question.gold_chunk_ids)
        elif question.kind != "unanswerable":
            assert not {row["chunk_id"] for row, _ in texts} & set(question.gold_chunk_ids)
        assert meta["tokens"] <= options.max_tokens
        assert meta["tokens"] == words(record.instruction) + words(record.input) + words(record.output) + 4
        parsed = parse_answer(record.output, template=template)
        for quote, stated in zip(parsed.quotes, meta["quotes"], strict=True):
            assert quote.text in texts[stated["passage"] - 1][1]
            assert stated["passage"] in oracles
            assert quote.passage == (stated["passage"] if template_name == "numbered" else None)
        if not meta["oracle_present"] or template_name == "direct":
            assert not parsed.quotes
        assert parsed.refused == (meta["label"] == "refuse")
        assert parsed.refused or parsed.final_answer == question.answer
        rank = SPLITS.index(meta["split"])
        assert all(SPLITS.index(splits.side(row["chunk_id"], row["document_id"])) <= rank for row, _ in texts)
    for split in SPLITS:
        answerable = [r for r in getattr(result, split) if r.metadata["oracle_ids"] and not r.metadata["arrangement"]]
        absent = sum(not r.metadata["oracle_present"] for r in answerable)
        if not result.report["absent_impossible"]:
            assert absent == round((1 - options.p_oracle) * len(answerable))


def test_the_share_of_oracles_is_the_asked_one_in_every_split():
    chunks = corpus(60)
    result = compose(chunks, ask_all(chunks), options=RecordOptions(p_oracle=0.7, max_tokens=400))
    for split in SPLITS:
        records = getattr(result, split)
        assert abs(sum(r.metadata["oracle_present"] for r in records) - 0.7 * len(records)) <= 1


def test_the_oracle_is_as_likely_in_every_place():
    chunks = corpus(150)
    position = compose(chunks, ask_all(chunks), seed=3).report["oracle_position"]
    assert set(position["histogram"]) == {"1", "2", "3", "4"}
    assert position["p_value"] > 0.01


def test_further_arrangements_show_the_same_passages_with_the_oracle_in_other_places():
    chunks = corpus(40)
    record_set = compose(chunks, ask_all(chunks), options=RecordOptions(arrangements=4, max_tokens=400))
    once = compose(chunks, ask_all(chunks))
    assert (record_set.validation, record_set.test) == (once.validation, once.test)
    assert record_set.train[: len(once.train)] == once.train
    assert len(record_set.train) == 4 * len(once.train)
    assert record_set.report["extra_arrangements"] == 3 * len(once.train)
    by_question = {}
    for record in record_set.train:
        by_question.setdefault(record.metadata["question_id"], []).append(record.metadata)
    for rows in by_question.values():
        assert len({frozenset(p["chunk_id"] for p in row["passages"]) for row in rows}) == 1
        places = [row["oracle_positions"] for row in rows]
        assert sorted(places) == ([[1], [2], [3], [4]] if rows[0]["oracle_present"] else [[]] * 4)


def test_passages_stand_as_the_retriever_ranks_them_where_that_is_asked():
    chunks = corpus(40)
    ranked = [dataclasses.replace(q, difficulty=i % 5 or None) for i, q in enumerate(ask_all(chunks))]
    record_set = compose(chunks, ranked, options=RecordOptions(order="retrieved", p_oracle=0.8, max_tokens=400))
    gold = {q.id: q.difficulty for q in ranked}
    places = Counter()
    for record in everything(record_set):
        rows = record.metadata["passages"]
        ranks = [gold[record.metadata["question_id"]] if p["role"] == "oracle" else p["rank"] for p in rows]
        ranked_only = [rank for rank in ranks if rank]
        assert ranked_only == sorted(ranked_only)
        random = [p["mined_by"] == "random" for p in rows]
        assert random == sorted(random)
        if record.metadata["oracle_present"]:
            places[gold[record.metadata["question_id"]], record.metadata["oracle_positions"][0]] += 1
    assert {place for rank, place in places if rank == 1} == {1}
    assert len({place for rank, place in places if rank is None}) > 1  # not found: anywhere
    card = data_card_markdown(record_set.report, title="Retrieved")
    assert "as the retriever ranks them" in card
    assert "chi-square" not in card
    assert "chi-square" in data_card_markdown(compose(chunks, ranked).report, title="Hashed")
    with pytest.raises(BadInput, match="order"):
        RecordOptions(order="sorted")


def test_the_document_type_is_the_ending_or_the_kind_of_source():
    named = {"guide/a.MD#3": "md", "README": "other", "10135926": "other", "https://host/page": "https"}
    chunks = [dataclasses.replace(c, source=list(named)[int(c.document_id, 16) % 4]) for c in corpus(24)]
    source = {c.id: c.source for c in chunks}
    for record in everything(compose(chunks, ask_all(chunks))):
        assert record.metadata["document_type"] == named[source[record.metadata["oracle_ids"][0]]]


def test_an_oracle_always_first_would_be_noticed():
    from data.records.figures import report_records

    chunks = corpus(60)
    records = compose(chunks, ask_all(chunks)).train
    for record in records:
        record.metadata["oracle_positions"] = [1] * len(record.metadata["oracle_positions"])
    assert report_records({"train": records})["oracle_position"]["p_value"] < 1e-6


def test_training_never_sees_a_passage_of_a_held_out_document_and_the_report_says_what_was_left_out():
    chunks = corpus(40)
    questions = ask_all(chunks)
    splits = split_by_document(chunks, questions)
    result = compose(chunks, questions, splits=splits)
    for record in result.train:
        assert all(splits.side(row["chunk_id"], row["document_id"]) == "train" for row in record.metadata["passages"])
    assert result.report["candidates_left_out"]["held_out_document"] > 0
    assert "held out document: " in data_card_markdown(result.report, title="No key of a program")
    assert result.report["leaks"] == 0


def test_a_text_that_also_stands_in_a_test_document_is_not_a_training_passage():
    chunks = corpus(30)
    questions = ask_all(chunks)
    splits = split_by_document(chunks, questions)
    test_document = next(d for d, s in splits.of.items() if s == "test")
    train_document = next(d for d, s in splits.of.items() if s == "train")
    held = next(c for c in chunks if c.document_id == test_document)
    number = next(c.title for c in chunks if c.document_id == train_document).split()[1]
    twin = make_chunk(int(number), 9, held.text.upper())
    mined = {q.id: [SimpleNamespace(chunk_id=twin.id, rank=1, score=1.0, mined_by="dense")] for q in questions}
    result = compose([*chunks, twin], questions, splits=splits, mined=mined)
    assert all(row["chunk_id"] != twin.id for r in result.train for row in r.metadata["passages"])


def test_a_planted_leak_is_found():
    chunks = corpus(30)
    questions = ask_all(chunks)
    splits = split_by_document(chunks, questions)
    result = compose(chunks, questions, splits=splits)
    by_split = {s: getattr(result, s) for s in SPLITS}
    swapped = {"train": result.test, "validation": result.validation, "test": result.train}
    assert not find_leaks(by_split, splits)
    assert {leak["leak"] for leak in find_leaks(swapped, splits)} >= {"document"}
    assert find_leaks({"train": result.train, "test": [*result.test, result.train[0]]}, splits)[0]["leak"] == "question"


def test_passages_that_hold_the_answer_or_overlap_the_oracle_are_no_distractors():
    chunks = corpus(30)
    gold = chunks[0]
    overlapping = make_chunk(0, 7, "tail of the oracle and then some more words", start=gold.end - 3)
    telling = make_chunk(1, 7, "Elsewhere one reads KEY0x0, too.")
    quoting = make_chunk(2, 7, f"He wrote: {gold.text[: len(gold.text) // 2]} and so on")
    questions = ask_all(chunks)
    bad = [overlapping, telling, quoting]
    mined = {questions[0].id: [SimpleNamespace(chunk_id=c.id, rank=1, score=1.0, mined_by="dense") for c in bad]}
    splits = split_by_document(chunks, questions, options=SplitOptions(validation=0.1, test=0.1, near_duplicate=1.0))
    result = compose([*chunks, *bad], questions, mined=mined, splits=splits)
    record = next(r for r in everything(result) if r.metadata["question_id"] == questions[0].id)
    assert not {c.id for c in bad} & {row["chunk_id"] for row in record.metadata["passages"]}
    assert len(record.metadata["passages"]) == 4  # drawn passages stand in
    assert result.report["candidates_left_out"].keys() >= {"overlaps_oracle", "holds_answer", "holds_quote"}


def test_the_share_of_random_distractors_that_was_mined_is_kept():
    chunks = corpus(150)
    questions = ask_all(chunks)
    splits = split_by_document(chunks, questions, options=SplitOptions(validation=0, test=0))
    mined = {}
    for q, hits in mine(questions, chunks, count=9).items():
        ranked, drawn = hits[1:6], hits[6:]  # five ranked, three drawn: the oracle was first
        mined[q] = ranked + [SimpleNamespace(**{**vars(d), "mined_by": "random", "rank": 0}) for d in drawn]
    origin = compose(chunks, questions, mined=mined, splits=splits).report["distractor_origin"]
    assert origin["random"] / sum(origin.values()) == pytest.approx(3 / 8, abs=0.03)


@pytest.mark.parametrize(
    ("policy", "labels"), [("answer", {"answer"}), ("refuse", {"refuse"}), ("mix", {"answer", "refuse"})]
)
def test_the_policy_decides_what_a_record_without_oracle_teaches(policy, labels):
    chunks = corpus(40)
    result = compose(chunks, ask_all(chunks), options=RecordOptions(absent=policy, p_oracle=0.5, max_tokens=400))
    absent = [r for r in everything(result) if not r.metadata["oracle_present"]]
    assert {r.metadata["label"] for r in absent} == labels
    assert all("##begin_quote##" not in r.output and "[" not in r.output for r in absent)
    assert ("If no passage" in absent[0].instruction) == (policy != "answer")
    if policy == "mix":
        counts = Counter((r.metadata["split"], r.metadata["label"]) for r in absent)
        assert abs(counts["train", "answer"] - counts["train", "refuse"]) <= 1


def test_records_with_and_without_oracle_show_as_many_passages():
    chunks = corpus(40)
    records = everything(compose(chunks, ask_all(chunks)))
    assert {len(r.metadata["passages"]) for r in records} == {4}


def test_the_number_of_passages_can_be_drawn_and_does_not_tell_whether_the_oracle_is_there():
    chunks = corpus(80)
    options = RecordOptions(min_distractors=1, distractors=4, p_oracle=0.5, max_tokens=400)
    record_set = compose(chunks, ask_all(chunks), options=options)
    counts = {
        shown: Counter(
            len(r.metadata["passages"]) for r in everything(record_set) if r.metadata["oracle_present"] == shown
        )
        for shown in (True, False)
    }
    assert set(counts[True]) == set(counts[False]) == {2, 3, 4, 5}
    assert min(min(c.values()) for c in counts.values()) > 10
    assert record_set.report["oracle_position"]["p_value"] > 0.01
    with pytest.raises(BadInput, match="min_distractors"):
        RecordOptions(min_distractors=4, distractors=3)


def test_the_budget_costs_distractors_of_least_value_first_and_never_the_oracle():
    chunks = corpus(40)
    questions = ask_all(chunks)
    roomy = {r.metadata["question_id"]: r for r in compose(chunks, questions).train}
    tight = compose(chunks, questions, options=RecordOptions(max_tokens=125)).train
    assert {len(r.metadata["passages"]) for r in tight} == {2}
    for record in tight:
        if record.metadata["oracle_present"] and roomy[record.metadata["question_id"]].metadata["oracle_present"]:
            rows = roomy[record.metadata["question_id"]].metadata["passages"]
            mined = sorted((r["rank"], r["chunk_id"]) for r in rows if r["mined_by"] == "dense")
            assert record.metadata["distractor_ids"][0] in (
                [mined[0][1]] if mined else record.metadata["distractor_ids"]
            )


def test_a_budget_too_small_for_any_question_says_what_to_raise():
    chunks = corpus(10)
    with pytest.raises(BadInput, match=r"raise records\.max_tokens to \d+"):
        compose(chunks, ask_all(chunks), options=RecordOptions(max_tokens=40))


def test_questions_that_cannot_be_composed_are_counted_with_their_reason():
    chunks = corpus(30)
    good = ask_all(chunks)
    broken = [
        good[0],
        make_question([chunks[1]], "", "Who did that, and why?"),
        make_question([chunks[2]], "x", "Is this quoted?", quotes=(Quote(chunks[2].id, "never written"),)),
        make_question([make_chunk(0, 99, "gone")], "gone", "Where is it?"),
        make_question([chunks[4]], "says <ANSWER>: twice", "What does it say?"),
    ]
    result = compose(chunks, [*good, *broken], mined={})
    assert result.report["dropped"] == {
        "gold_not_in_corpus": 1,
        "no_answer": 1,
        "quote_not_in_oracle": 1,
        "repeated_id": 1,
        "unreadable_label": 1,
    }
    assert len(everything(result)) == len(good)


def test_the_words_of_a_test_question_are_not_trained_on():
    chunks = corpus(30)
    questions = ask_all(chunks)
    splits = split_by_document(chunks, questions)
    held = next(q for q in questions if splits.of[q.document_ids[0]] == "test")
    trained = next(c for c in chunks if splits.of[c.document_id] == "train")
    again = make_question([trained], trained.text.split()[4].rstrip(":"), held.question.upper())
    result = compose(chunks, [*questions, again], splits=splits, mined={})
    assert result.report["dropped"] == {"asked_in_later_split": 1}
    assert again.id not in {r.metadata["question_id"] for r in everything(result)}


def test_the_same_input_and_seed_give_the_same_records_and_another_seed_others():
    chunks = corpus(30)
    questions = ask_all(chunks)
    first, second, other = (compose(chunks, questions, seed=s) for s in (1, 1, 2))
    assert first == second
    assert first.train != other.train


def test_the_first_records_of_a_split_are_a_fair_sample_of_its_documents():
    chunks = corpus(60)
    train = compose(chunks, ask_all(chunks)).train
    assert len({d for r in train[:30] for d in r.metadata["document_ids"]}) > 18  # in file order it would be ten


def test_p_can_be_measured_from_the_ranks_of_the_retriever():
    chunks = corpus(10)
    ranks = [1, 4, 5, None] * 8
    questions = [make_question([c], "x", difficulty=r) for c, r in zip(chunks, ranks, strict=False)]
    count = sum(r in (1, 4) for r in ranks[: len(questions)])
    assert measured_p(questions, passages=4) == round(count / len(questions), 4)
    with pytest.raises(BadInput, match="p_oracle"):
        measured_p(ask_all(chunks), passages=4)


@pytest.mark.slow
def test_a_new_document_changes_few_other_records():
    chunks = corpus(60)
    questions = ask_all(chunks)
    more = corpus(61)
    mined = mine(questions, chunks)
    before = {r.metadata["record_id"] for r in everything(compose(chunks, questions, mined=mined))}
    after = {r.metadata["record_id"] for r in everything(compose(more, ask_all(more), mined=mined))}
    assert len(before & after) >= 0.9 * len(before)


def test_questions_on_seen_documents_are_kept_apart():
    chunks = corpus(60)
    result = compose(chunks, ask_all(chunks), options=RecordOptions(seen_test=0.2, max_tokens=400))
    kinds = Counter(r.metadata["documents"] for r in result.test)
    assert kinds["seen"] > 0
    assert kinds["unseen"] > 0
    trained = {r.metadata["question_id"] for r in result.train}
    assert not trained & {r.metadata["question_id"] for r in result.test}


def test_records_load_in_datasets_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import load_dataset

    chunks = corpus(30)
    result = compose(chunks, ask_all(chunks))
    files = {}
    for split in SPLITS:
        files[split] = str(tmp_path / f"{split}.jsonl")
        write_jsonl(tmp_path / f"{split}.jsonl", getattr(result, split))
    loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["instruction"] == result.train[0].instruction
    assert loaded["train"].num_rows == len(result.train)
    from data.nouns import Record

    assert list(read_jsonl(tmp_path / "train.jsonl", Record)) == result.train
    json.dumps(result.report)


@pytest.mark.parametrize("wrong", [{"p_oracle": 1.2}, {"absent": "lie"}, {"distractors": -1}, {"seen_test": 0.9}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(BadInput):
        RecordOptions(**wrong)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("十五天带薪年假", "按规定大家都有十五天带薪年假可以分次使用。"),
        ("蓝色", "没有佩戴蓝色胸牌的人不得进入机房。"),
        ("สิบห้าวัน", "ทุกคนลาได้สิบห้าวันต่อปี"),
        ("서울", "노트북은 서울에 있다."),
        ("Café Zürich", "They met in the Cafe\u0301 Zu\u0308rich again."),
        ("Rock ’n’ Roll", "They heard Rock 'n' Roll all night."),
    ],
)
def test_a_passage_that_holds_the_answer_in_any_script_or_spelling_is_no_distractor(answer, passage):
    chunks = corpus(8)
    trap, gold = make_chunk(90, 0, passage), chunks[0]
    questions = [make_question([gold], answer, "What is it?"), *ask_all(chunks[3:])]
    near = SimpleNamespace(chunk_id=trap.id, rank=1, score=1.0, mined_by="dense")
    mined = {q.id: [near, *rows] for q, rows in zip(questions, mine(questions, chunks).values())}
    result = compose([*chunks, trap], questions, mined=mined)
    record = next(r for r in everything(result) if r.metadata["question_id"] == questions[0].id)
    assert passage not in record.input
    assert result.report["candidates_left_out"]["holds_answer"] >= 1


@pytest.mark.parametrize(("unanswerable", "warned"), [(0.6, True), (0.2, False)])
def test_a_set_that_makes_most_records_refuse_is_warned_of(unanswerable, warned, caplog):
    chunks = corpus(40)
    questions = ask_all(chunks)
    cut = int(unanswerable * len(questions))
    refused = [dataclasses.replace(q, kind="unanswerable", answer="", quotes=()) for q in questions[:cut]]
    result = compose(chunks, [*refused, *questions[cut:]])
    share = sum(r.metadata["label"] == "refuse" for r in result.train) / len(result.train)
    assert (share > 0.5) == warned
    assert [f"{share:.0%} of the training records are to be refused" in m for m in caplog.messages] == [True] * warned
