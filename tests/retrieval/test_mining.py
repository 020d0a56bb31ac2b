"""Distractors come from the retriever, never give the answer away, and do not change when other things do."""

from collections import Counter

import pytest
from retrieval_samples import make_chunk, make_question

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.mining import Mined, MiningOptions, false_distractor_rate, mine_distractors
from retrieval.overlap import answer_needles, contains, folded

ONLY_RETRIEVED = MiningOptions(random_share=0.0)


def ranking(chunks, scores=None):
    """A search that gives the same chunks for every query."""
    hits = [Hit(c.id, scores[i] if scores else 1 - i / 100, i + 1) for i, c in enumerate(chunks)]
    return lambda queries, k: [hits[:k] for _ in queries]


def mine(question, chunks, *, count=3, options=ONLY_RETRIEVED, search=None, seed=0, counts=None):
    distractors = mine_distractors(
        [question], chunks, search or ranking(chunks), count=count, seed=seed, options=options, counts=counts
    )
    return distractors[question.id]


def test_the_nearest_passages_that_are_not_gold_are_taken_with_their_rank_and_score(town):
    question = make_question("When was the bridge built?", "1874", town[0])
    assert mine(question, [town[0], town[2], town[3], town[4]], count=2) == [
        Mined(town[2].id, 2, 0.99, "retrieved"),
        Mined(town[3].id, 3, 0.98, "retrieved"),
    ]


@pytest.mark.parametrize(
    "passage", ["Others say 1874.", "In\u00a01874, they say", "It was (1874)!", "the year １８７４ was wet"]
)
def test_a_passage_that_contains_an_accepted_answer_is_refused(town, passage):
    leak = make_chunk(passage, document="leak")
    question = make_question("When was the bridge built?", "1874", town[0])
    counts = Counter()
    mined = mine(question, [town[0], leak, town[2]], counts=counts)
    assert [m.chunk_id for m in mined] == [town[2].id]
    assert counts["refused:answer"] == 1
    assert counts["short"] == 1


def test_every_accepted_alternative_and_every_gold_quote_counts(town):
    question = make_question("What lights it?", "an oil lamp", town[2], answers=("oil lamp", "Petroleum light"),
                             quote="keeper lit the oil lamp")  # fmt: skip
    bad = [
        make_chunk("A petroleum light shone.", document="x"),
        make_chunk("The Keeper lit the OIL-lamp.", document="y"),
    ]
    assert mine(question, [*bad, town[2], town[3]], count=5) == [Mined(town[3].id, 4, 0.97, "retrieved")]


def test_an_answer_inside_a_longer_word_is_no_leak():
    assert not contains(folded("The Parisian harbour"), "paris")
    assert contains(folded("In Paris, France"), "paris")
    assert contains(folded("首都は東京です"), folded("東京"))


def test_short_and_yes_no_answers_are_not_looked_for(town):
    for answer in ("yes", "No.", "9", "maybe"):
        assert answer_needles(make_question("Is it?", answer, town[0])) == []
    assert answer_needles(make_question("Who?", "The Miller", town[4])) == ["miller"]


def test_near_duplicates_of_the_oracle_and_of_each_other_are_refused(town):
    same = make_chunk(town[2].text.upper() + "!", document="copy")
    longer = make_chunk(
        town[2].text + " It stood on a rock far out, and nobody remembers who paid for it.", document="l"
    )
    twin = make_chunk(town[3].text.replace("wool", "cloth"), document="twin")
    question = make_question("Who lit the lamp?", "nobody knows", town[2])
    counts = Counter()
    mined = mine(question, [town[2], same, longer, town[3], twin, town[4]], counts=counts)
    assert [m.chunk_id for m in mined] == [town[3].id, town[4].id]
    assert counts["refused:near-duplicate"] == 2
    assert counts["refused:repeat"] == 1


def test_distinct_documents_are_preferred_and_then_the_window_is_used_up(town):
    question = make_question("What is sold?", "cheese", town[3])
    order = [town[0], town[1], town[6], town[7], town[4]]
    assert [m.chunk_id for m in mine(question, order, count=3)] == [town[0].id, town[6].id, town[4].id]
    assert [m.chunk_id for m in mine(question, order, count=4)] == [c.id for c in (town[0], town[1], town[6], town[4])]


def test_the_rank_window_and_the_margin_hold(town):
    question = make_question("When?", "1874", town[0])
    windowed = mine(question, town, options=MiningOptions(first_rank=4, last_rank=6, random_share=0.0), count=3)
    assert [m.rank for m in windowed] == [4, 5, 6]
    scores = [1.0, 0.99, 0.96, 0.95, 0.8, 0.7, 0.6, 0.5]
    margin = MiningOptions(relative_margin=0.95, random_share=0.0, distinct_documents=False)
    mined = mine(question, town, options=margin, search=ranking(town, scores), count=2)
    assert [m.rank for m in mined] == [4, 5]


def test_what_the_window_cannot_give_is_drawn_at_random_under_the_same_rules(town):
    leak = make_chunk("Yes, 1874 it was.", document="leak")
    question = make_question("When?", "1874", town[0])
    corpus = [*town, leak]
    counts = Counter()
    mined = mine(question, corpus, count=6, search=ranking(town[:3]), counts=counts)
    assert [m.mined_by for m in mined] == ["retrieved"] * 2 + ["random"] * 4
    chosen = {m.chunk_id for m in mined}
    assert len(chosen) == 6
    assert not chosen & {leak.id, town[0].id}
    assert (counts["retrieved"], counts["random"], counts["short"]) == (2, 4, 0)


def test_the_first_few_hold_random_ones_in_the_same_share(town):
    corpus = [make_chunk(f"Ship {i} brought {i * 7} tons of coal.", document=f"d{i}") for i in range(400)]
    corpus = [c for i, c in enumerate(corpus) if i % 7 == 0] + town
    questions = [make_question(f"Question {i}?", "1874", town[0]) for i in range(200)]
    options = MiningOptions(random_share=0.25)
    mined = mine_distractors(questions, corpus, ranking(corpus), count=8, seed=0, options=options)
    for few in (2, 4, 8):
        share = sum(m.mined_by == "random" for distractors in mined.values() for m in distractors[:few]) / (200 * few)
        assert 0.18 < share < 0.32
    for distractors in mined.values():
        ranks = [m.rank for m in distractors if m.mined_by == "retrieved"]
        assert ranks == sorted(ranks)


def test_a_corpus_that_is_too_small_gives_fewer(town):
    question = make_question("When?", "1874", town[0])
    assert len(mine(question, town[:3], count=10)) == 2
    assert mine(question, town[:1], count=10) == []


def test_the_same_seed_gives_the_same_and_another_seed_another_choice(town):
    corpus = [*town, *(make_chunk(f"Ship {i} brought {i * 7} tons of coal.", document=f"d{i}") for i in range(60))]
    question = make_question("When?", "1874", town[0])
    options = MiningOptions(random_share=1.0)
    first, again, other = (mine(question, corpus, options=options, seed=s, count=5) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_another_question_or_another_document_leaves_a_questions_distractors_alone(town):
    corpus = [*town, *(make_chunk(f"Ship {i} brought {i * 7} tons of coal.", document=f"d{i}") for i in range(60))]
    questions = [make_question(f"Question {i}?", "1874", town[0]) for i in range(30)]
    options = MiningOptions(random_share=0.5, last_rank=3)
    search = ranking(town)
    before = mine_distractors(questions[:20], corpus, search, count=4, seed=0, options=options)
    after = mine_distractors(questions[::-1], corpus, search, count=4, seed=0, options=options)
    assert all(after[q.id] == before[q.id] for q in questions[:20])
    larger = mine_distractors(
        questions[:20], [*corpus, make_chunk("A new page.", document="new")], search, count=4, seed=0, options=options
    )
    assert sum(larger[q.id] == before[q.id] for q in questions[:20]) >= 15


def test_the_remaining_false_distractors_are_measured(town):
    inflected = make_chunk("Lamps full of oils were carried up.", document="x")
    asked = make_question("What lights it?", "oils lamps", town[2])
    yes_no = make_question("Is it lit?", "yes", town[2])
    clean = make_question("When was the bridge built?", "1874", town[0])
    corpus = [*town, inflected]
    mined = {
        asked.id: [Mined(inflected.id, 1, 0.9, "retrieved"), Mined(town[0].id, 2, 0.8, "retrieved")],
        yes_no.id: [Mined(town[0].id, 1, 0.9, "retrieved")],
        clean.id: [Mined(town[3].id, 1, 0.9, "retrieved"), Mined(town[4].id, 2, 0.9, "retrieved")],
    }
    rate = false_distractor_rate([asked, yes_no, clean], corpus, mined)
    assert rate == {
        "questions": 3, "untestable": 1, "flagged_questions": 1, "flagged_distractors": 1,
        "question_rate": 0.5, "distractor_rate": 0.25,
    }  # fmt: skip


def test_silly_options_are_bad_input(town):
    for wrong in ({"first_rank": 0}, {"first_rank": 9, "last_rank": 5}, {"random_share": 1.5}, {"relative_margin": 0}):
        with pytest.raises(BadInput):
            MiningOptions(**wrong)
    with pytest.raises(BadInput):
        mine(make_question("When?", "1874", town[0]), town, count=-1)


def test_answers_are_found_without_spaces_and_with_hidden_characters():
    assert contains(folded("共有 5 天假期"), folded("5天"))
    assert contains(folded("พนักงานลาได้สิบวัน"), folded("สิบวัน"))
    assert contains(folded("노트북은 서울에 있다"), folded("서울"))
    assert not contains(folded("共15天"), folded("5天"))
    assert contains(folded("The fire\u00adwall is on."), folded("firewall"))


def test_false_distractors_are_measured_in_chinese_too():
    gold, trap = make_chunk("员工每年享有十五天年假。"), make_chunk("大家都有十五天年假可以使用。", document="other")
    question = make_question("有多少天年假？", "十五天年假", gold)
    rates = false_distractor_rate([question], [gold, trap], {question.id: [Mined(trap.id, 1, 1.0, "retrieved")]})
    assert rates["flagged_questions"] == 1
