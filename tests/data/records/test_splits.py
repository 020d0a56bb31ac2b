"""Documents are split so that nothing is tested that was trained on, and stay where they are when others come."""

import dataclasses
from itertools import pairwise

import pytest
from made_up import WORDS, ask_all, compose, corpus, make_chunk, make_question

from data.nouns import Chunk, MemoryCache
from data.records.splits import SPLITS, FrozenSplits, SplitOptions, near_duplicates, split_by_document, works_of
from raft_errors import BadInput


def test_every_document_has_one_side_and_the_shares_are_near_the_target():
    chunks = corpus(400, per_document=1)
    splits = split_by_document(chunks, ask_all(chunks), options=SplitOptions(validation=0.2, test=0.2))
    assert set(splits.of) == {c.document_id for c in chunks}
    counts = splits.report["documents"]
    assert sum(counts.values()) == 400
    assert 50 < counts["test"] < 110
    assert 50 < counts["validation"] < 110


def test_a_document_keeps_its_side_when_others_are_added_or_removed():
    few, many = corpus(40), corpus(80)
    before = split_by_document(few, ask_all(few)).of
    after = split_by_document(many, ask_all(many)).of
    assert all(after[d] == side for d, side in before.items())


def test_another_seed_splits_otherwise_and_the_same_seed_alike():
    chunks = corpus(60)
    questions = ask_all(chunks)
    assert split_by_document(chunks, questions, seed=1) == split_by_document(chunks, questions, seed=1)
    assert split_by_document(chunks, questions, seed=1).of != split_by_document(chunks, questions, seed=2).of


@pytest.mark.parametrize("seed", range(8))
def test_near_duplicate_documents_are_on_one_side(seed):
    chunks = corpus(30, per_document=2, length=60)
    copies = [make_chunk(100 + i, c.ordinal, c.text + " Revised.") for i, c in enumerate(chunks[:10])]
    splits = split_by_document([*chunks, *copies], ask_all(chunks), seed=seed)
    for original, copy in zip(chunks[:10], copies, strict=True):
        assert splits.of[original.document_id] == splits.of[copy.document_id]
    assert splits.report["groups_of_several"] >= 5


def test_a_question_over_two_documents_holds_them_together():
    chunks = corpus(30, per_document=1)
    pairs = [make_question([chunks[i], chunks[i + 15]], "both", f"What joins {i}?") for i in range(15)]
    splits = split_by_document(chunks, pairs)
    for question in pairs:
        assert len({splits.of[d] for d in question.document_ids}) == 1
    assert splits.report["joined"]["shared_question"] == 15


@pytest.mark.parametrize("seed", range(10))
def test_every_split_has_questions_even_with_three_documents(seed):
    chunks = corpus(3)
    report = split_by_document(chunks, ask_all(chunks), seed=seed).report
    assert all(report["questions"][s] > 0 for s in SPLITS)


@pytest.mark.parametrize("seed", range(10))
def test_few_uneven_documents_still_leave_each_split_a_fair_part_of_the_questions(seed):
    chunks = [c for d, size in enumerate([40, 5, 5, 4, 6, 5, 3, 8, 4, 5]) for c in corpus(d + 1, size)[-size:]]
    options = SplitOptions(validation=0.1, test=0.2)
    shares = split_by_document(chunks, ask_all(chunks), seed=seed, options=options).report["question_shares"]
    assert shares["train"] >= 0.35
    assert 0.1 <= shares["test"] <= 0.6
    assert 0.04 <= shares["validation"] <= 0.6


def test_parts_of_one_work_stay_together():
    chunks = corpus(30, per_document=1)
    together = {c.document_id: f"book {i // 3}" for i, c in enumerate(chunks)}
    splits = split_by_document(chunks, ask_all(chunks), together=together)
    for book in set(together.values()):
        assert len({splits.of[d] for d, name in together.items() if name == book}) == 1


def test_one_long_document_is_split_by_passage_and_says_so(caplog):
    chunks = [make_chunk(0, i, " ".join(f"word{i}x{j}" for j in range(30))) for i in range(60)]
    splits = split_by_document(chunks, [make_question([c], c.text.split()[3]) for c in chunks])
    assert splits.report["level"] == "passage"
    assert all(splits.report["questions"][s] > 0 for s in SPLITS)
    assert set(splits.of_chunk) == {c.id for c in chunks}
    assert "1 independent document with questions cannot be split" in caplog.text
    assert "add documents that have questions of their own" in caplog.text
    sides = [splits.side(c.id, c.document_id) for c in chunks]
    assert sum(a != b for a, b in pairwise(sides)) < 20  # neighbours stay together


def test_the_copies_that_tie_a_corpus_together_are_named_with_what_to_set(caplog):
    texts = [" ".join(f"word{i}x{j}" for j in range(60)) for i in range(8)]
    first = [make_chunk(0, i, text) for i, text in enumerate(texts)]
    second = [make_chunk(1, i, text) for i, text in enumerate([*texts[:7], texts[7] + " and one more"])]
    questions = [make_question([c], c.text.split()[3], f"{c.source}, {c.ordinal}?") for c in [*first, *second]]
    splits = split_by_document([*first, *second], questions)
    assert splits.report["level"] == "passage"
    a, b = first[0].source, second[0].source
    assert f"{b} is a near-copy of {a}" in splits.report["because"]
    assert splits.report["because"] in caplog.text
    assert "set ingest.near_duplicates to drop" in caplog.text


def test_a_copy_of_a_held_out_oracle_cut_otherwise_is_held_out_too():
    words = [f"word{i}" for i in range(2400)]
    book = [make_chunk(0, i, " ".join(words[i * 40 : (i + 1) * 40])) for i in range(60)]
    reprint = [make_chunk(1, i, " ".join(words[max(0, i * 40 - 17) : (i + 1) * 40 - 17])) for i in range(61)]
    questions = [make_question([c], c.text.split()[3]) for c in book]
    questions += [make_question([c], c.text.split()[5], f"Reprint, {c.ordinal}?") for c in reprint[1:60:7]]
    splits = split_by_document([*book, *reprint], questions, options=SplitOptions(validation=0, test=0.2), seed=3)
    assert splits.report["level"] == "passage"
    held = {w for c in book if splits.side(c.id, c.document_id) == "test" for w in c.text.split()}
    for chunk in reprint:
        if splits.side(chunk.id, chunk.document_id) == "train":
            assert len(held & set(chunk.text.split())) <= 17
    record_set = compose([*book, *reprint], questions, splits=splits, mined={})
    assert record_set.report["dropped"].get("copy_of_held_out", 0) > 0
    assert {r.metadata["documents"] for r in record_set.test} == {"unseen passage"}


def test_too_few_passages_are_refused_with_a_way_out():
    chunks = corpus(2)
    with pytest.raises(BadInput, match=r"set the share of validation"):
        split_by_document(chunks, ask_all(chunks))
    report = split_by_document(chunks, ask_all(chunks), options=SplitOptions(validation=0)).report
    assert report["documents"]["validation"] == 0
    assert report["documents"]["test"] == 1


def test_a_frozen_test_document_stays_one_and_draws_its_near_duplicates_with_it():
    chunks = corpus(30, per_document=1, length=60)
    first = split_by_document(chunks, ask_all(chunks), seed=1)
    held = next(c for c in chunks if first.of[c.document_id] == "test")
    copy = make_chunk(77, 0, held.text + " New edition.")
    later = split_by_document([*chunks, copy], ask_all(chunks), seed=2, previous=first.frozen())
    assert all(later.of[d] == side for d, side in first.of.items())
    assert later.of[copy.document_id] == "test"


def test_the_sides_of_a_split_within_documents_are_frozen_too_and_travel_in_a_file(tmp_path):
    chunks = [make_chunk(0, i, " ".join(f"word{i}x{j}" for j in range(30))) for i in range(60)]
    first = split_by_document(chunks, ask_all(chunks), seed=1)
    assert first.report["level"] == "passage"
    first.frozen().write(tmp_path / "splits.json")
    frozen = FrozenSplits.read(tmp_path / "splits.json")
    assert frozen == first.frozen()
    edited = [make_chunk(0, 5, "an edited passage with other words in it"), *chunks[:5], *chunks[6:]]
    later = split_by_document(edited, ask_all(edited), seed=2, previous=frozen)
    assert all(later.of_chunk[c.id] == first.of_chunk[c.id] for c in chunks[:5] + chunks[6:])


@pytest.mark.parametrize("text", ["", "[]", '{"documents": {}}', '{"documents": {"a": "exam"}, "chunks": {}}'])
def test_a_file_that_holds_no_sides_is_refused(tmp_path, text):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(BadInput, match=r"splits\.json"):
        FrozenSplits.read(tmp_path / "splits.json")


def test_texts_that_differ_in_case_and_space_only_are_near_duplicates_and_others_are_not():
    texts = {"a": "One  two three", "b": "one two\nTHREE", "c": "quite something else", "d": "", "e": " "}
    assert near_duplicates(texts, 0.8) == [("a", "b")]


@pytest.mark.parametrize("wrong", [{"test": -0.1}, {"validation": 0.6, "test": 0.4}, {"near_duplicate": 0}])
def test_impossible_shares_are_refused(wrong):
    with pytest.raises(BadInput):
        SplitOptions(**wrong)


def test_sketches_from_the_cache_find_the_same_near_duplicates():
    words = [f"word{number}" for number in range(60)]
    texts = {f"{at:02}": " ".join([*words[at:], *words[:at], *["other"] * (at % 5)]) for at in range(40)}
    cache = MemoryCache()
    plain = near_duplicates(texts, 0.7)
    assert plain
    assert near_duplicates(texts, 0.7, cache=cache) == plain
    kept = dict(cache.items)
    assert near_duplicates(texts, 0.7, cache=cache) == plain
    assert cache.items == kept


def rows_of(titles: list[str], table: str = "squad.jsonl") -> list[Chunk]:
    return [
        dataclasses.replace(make_chunk(i, 0, f"Row {i} is about {WORDS[i % 30]} and {WORDS[i * 7 % 29]}."),
                            source=f"{table}#{i}", title=title)
        for i, title in enumerate(titles)
    ]  # fmt: skip


def test_rows_of_one_work_in_a_table_stay_on_one_side():
    chunks = rows_of([f"Article {i // 5}" for i in range(200)])
    splits = split_by_document(chunks, [make_question([c], f"row {c.source}") for c in chunks])
    for first in range(0, 200, 5):
        assert len({splits.of[c.document_id] for c in chunks[first : first + 5]}) == 1
    assert splits.report["joined"]["given"] == 160
    assert {splits.of[c.document_id] for c in chunks} == set(SPLITS)


def test_a_title_of_most_rows_or_of_files_joins_nothing():
    rows = rows_of(["FAQ"] * 8 + ["Valve", "Valve"])
    assert works_of(rows) == {c.document_id: "valve" for c in rows[8:]}
    assert works_of([dataclasses.replace(c, title="Introduction") for c in corpus(4)]) == {}


def test_copies_of_chinese_documents_are_near_duplicates():
    text = "员工每年享有十五天带薪年假，年假必须在次年三月底之前用完，申请年假需要提前两周提交。" * 2
    changed = text.replace("三月底", "四月底", 1)
    other = "灭火器由物业公司每六个月检查一次，检查结果记录在红色登记簿里，发现问题应立即更换。" * 2
    assert near_duplicates({"a": text, "b": changed, "c": other}, 0.7) == [("a", "b")]
