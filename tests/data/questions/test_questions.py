"""A kept question is well-formed, found again and answered by words of its chunk; every other one is counted."""

import contextlib
import dataclasses
import json
import random

import numpy as np
import pytest

from data.nouns import Chunk, Hit, MemoryCache, digest, text_sha256
from data.questions import QuestionOptions, generate, generate_questions
from data.questions import small as small_style
from data.questions.answers import Answer, full_answer, supported, supporting_sentence
from data.questions.asking import Sampling, ask, reply_key
from data.questions.drafts import draft, names_in
from data.questions.filters import Duplicates, Fault, copies, grounded, tidy, well_formed
from data.questions.prompts import OWN_TEMPLATES, load_prompt
from data.questions.selection import Statement, choose, statements
from data.questions.shapes import shape
from data.teachers import ReplayTeacher, TeacherFailure
from data.text.quotes import Span
from raft_errors import BadInput

FACTS = [
    (
        "Valves",
        'The "red" valve returns the hot water to the tank. It is small.',
        'What does the "red" valve return to the tank?',
    ),
    ("Pumps", "A heat pump is a machine that moves heat into a house. It hums.", "What is a heat pump?"),
    (
        "Leases",
        "The deposit is paid back once the keys have been returned.\nSee below.",
        "When is the deposit paid back?",
    ),
    (
        "Tenants",
        "A tenant who leaves early must pay one month of rent to the owner.",
        "What must a tenant who leaves early pay?",
    ),
    (
        "Roads",
        "The mountain road was closed in March due to heavy snow on the pass.",
        "Why was the mountain road closed in March?",
    ),
    (
        "Ovens",
        "The baker stores fresh loaves in the cold cellar over night.",
        "What does the baker store in the cellar?",
    ),
]


def chunk_of(title, text, ordinal=0):
    doc = digest(title)
    return Chunk(
        digest(doc, str(ordinal), text), doc, ordinal, text, 0, len(text), 9, text_sha256(text), f"{title}.md", title
    )


CHUNKS = [chunk_of(title, text) for title, text, _ in FACTS]
REPLIES = {text.split("\n")[0].split(". It ")[0].rstrip("."): question for _, text, question in FACTS}
SMALL = QuestionOptions(style="small")


def find_own(queries, k):
    """A retriever that ranks by shared words."""
    out = []
    for query in queries:
        asked = set(query.lower().strip("?").replace('"', "").split())
        scored = sorted((-len(asked & set(c.text.lower().replace('"', "").split())), c.id) for c in CHUNKS)
        out.append([Hit(i, -float(s), n + 1) for n, (s, i) in enumerate(scored[:k])])
    return out


def small(replies=REPLIES, chunks=CHUNKS, search=find_own, cache=None, **options):
    teacher = ReplayTeacher(replies, batch_size=2)
    made = generate_questions(
        chunks, teacher, search, options=dataclasses.replace(SMALL, **options), cache=cache or MemoryCache()
    )
    assert made.counts["asked"] == len(made.questions) + len(made.dropped)
    assert sum(made.counts["dropped"].values()) == len(made.dropped)
    return made, teacher


def test_every_kept_question_is_the_teachers_and_its_answer_is_verbatim():
    made, teacher = small()
    text_of = {c.id: c.text for c in CHUNKS}
    assert {q.question for q in made.questions} == {question for _, _, question in FACTS}
    for question in made.questions:
        assert question.quotes
        assert all(quote.text in text_of[quote.chunk_id] for quote in question.quotes)
        assert question.answer in " ".join(question.quotes[0].text.split())
        assert question.origin == "teacher:replay"
        assert question.difficulty == 1
        assert question.document_ids == (next(c.document_id for c in CHUNKS if c.id == question.gold_chunk_ids[0]),)
    assert {q.kind: q.answer for q in made.questions if q.kind in ("condition", "reason")} == {
        "condition": "once the keys have been returned",
        "reason": "due to heavy snow on the pass",
    }
    assert len(teacher.calls) == len(CHUNKS)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        ("A heat pump moves heat.", "not_a_question"),
        ("What does the passage say about a heat pump?", "points_at_text"),
        ("What is a heat pump? Who invented the heat pump?", "several_sentences"),
        ("What does the solar panel on the roof cost?", "not_grounded"),
        ("What is it?", "length"),
        ("When is a heat pump a machine?", "asks_something_else"),
    ],
)
def test_a_bad_question_is_dropped_for_the_right_reason(reply, reason):
    made, _ = small({**REPLIES, list(REPLIES)[1]: reply}, mend_questions=False)
    assert [(d.chunk_id, d.reason) for d in made.dropped] == [(CHUNKS[1].id, reason)]


def test_a_question_that_the_retriever_cannot_place_is_dropped_and_rank_is_its_difficulty():
    def second(queries, k):
        found = find_own(queries, k)
        return [[Hit(h.chunk_id, h.score, 2 if h.rank == 1 else 1) for h in (row[1], row[0])] for row in found]

    made, _ = small(search=second)
    assert {q.difficulty for q in made.questions} == {2}
    made, _ = small(search=lambda queries, k: [[] for _ in queries], round_trip_k=3)
    assert made.counts["dropped"] == {"round_trip": len(FACTS)}
    assert "first 3" in made.dropped[0].detail


def test_a_sentence_that_stands_twice_is_asked_about_once_and_either_chunk_counts_as_found():
    twin = chunk_of("Copy", FACTS[0][1])
    made, teacher = small(chunks=[*CHUNKS, twin], search=lambda queries, k: [[Hit(twin.id, 1.0, 1)] for _ in queries])
    assert len(teacher.calls) == len(CHUNKS)
    assert [q.quotes[0].text for q in made.questions] == ['The "red" valve returns the hot water to the tank.']


def test_a_killed_run_goes_on_to_the_same_bytes_and_pays_for_nothing_twice():
    whole, _ = small()
    cache = MemoryCache()
    before: list = []
    for calls in range(1, 4):

        class Dies(ReplayTeacher):
            left = calls

            def complete(self, prompts, **settings):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                return super().complete(prompts, **settings)

        teacher = Dies(REPLIES, batch_size=2)
        with contextlib.suppress(KeyboardInterrupt):
            made = generate_questions(CHUNKS, teacher, find_own, options=SMALL, cache=cache)
        before += teacher.calls
    assert made.questions == whole.questions
    assert made.dropped == whole.dropped
    assert len(before) == len(CHUNKS) == len({json.dumps(m) for m in before})


def test_only_changed_chunks_are_asked_again():
    cache = MemoryCache()
    small(cache=cache)
    _, teacher = small(cache=cache)
    assert teacher.calls == []
    changed = chunk_of("Pumps", "A heat pump is a machine that warms a house in winter. It hums.")
    _, teacher = small(chunks=[CHUNKS[0], changed, *CHUNKS[2:]], cache=cache)
    assert len(teacher.calls) == 1


def test_the_choice_is_seeded_even_over_documents_and_stable_under_change():
    text = "The {0} pump {0} moves water into tank number {1}. The {0} tank must hold {1} litres of clean water."
    chunks = [chunk_of(f"doc {d}", text.format(f"type{d}{n}", n), n) for d in range(6) for n in range(5)]

    def picked(chunks, **more):
        return [
            c.chunk.id for c in choose(chunks, **{"max_questions": 12, "questions_per_chunk": 1, "seed": 0, **more})
        ]

    one = picked(chunks)
    assert one == picked(list(reversed(chunks)))
    assert sorted(len([i for i in one if i in {c.id for c in chunks[d * 5 : d * 5 + 5]}]) for d in range(6)) == [2] * 6
    assert set(one) != set(picked(chunks, seed=1))
    edited = [chunk_of("doc 0", c.text.replace("water", "oil"), c.ordinal) if c.ordinal == 0 else c for c in chunks[:5]]
    assert set(one[:]) & {c.id for c in chunks[5:]} == set(picked([*edited, *chunks[5:]])) & {c.id for c in chunks[5:]}


@pytest.mark.parametrize(
    "text",
    [
        "with_stmt ::= with_item suite. Another line = code(x) goes here now.",
        "It closes the file when the block ends. This is done in the order given.",
        "and is then closed by the interpreter when the block",
        "Returns\n=======\n\n* first\n* second",
        "The rules are as follows for all the statements in this section.",
    ],
)
def test_code_fragments_and_sentences_that_need_their_neighbours_are_not_asked_about(text):
    assert statements(text) == []
    with pytest.raises(BadInput, match="holds a whole sentence"):
        small(chunks=[chunk_of("x", text)])


@pytest.mark.parametrize(
    ("sentence", "kind", "answer"),
    [
        ("The gate stays closed until the train has passed.", "condition", "until the train has passed"),
        ("The road was closed due to heavy snow.", "reason", "due to heavy snow"),
        ('A "ledger" is a book of payments.', "definition", "a book of payments"),
        ("Visitors must leave the tower by six.", "duty", "leave the tower by six"),
        ('The "len()" function returns the number of items.', "action", "the number of items"),
        ("Which approach is best depends on the application.", "general", ""),
        ("If it rains, the match is off.", "general", ""),
        ("If the tank is empty, the pump stops at once.", "consequence", "the pump stops at once"),
        ("The gate is opened by the warden.", "passive", "by the warden"),
    ],
)
def test_the_shape_of_a_sentence_says_which_words_answer(sentence, kind, answer):
    assert shape(sentence) == (kind, answer)


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ("1. What is a heat pump?\n2. Who made it?", "What is a heat pump?"),
        ("Here is a question:\nQ1: **What is a heat pump?**", "What is a heat pump?"),
        ('"What is a heat pump?"', "What is a heat pump?"),
        ("", ""),
    ],
)
def test_numbering_labels_and_markup_are_taken_off(reply, question):
    assert tidy(reply) == question


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("What does the return statement do in a generator?", None),
        ('What does "x == 1" mean in the "match" statement?', None),
        ("什么是生成器函数的返回值？", None),
        ("What is 1 + 2 == {3: 4} [5]?", "not_language"),
        ("Why does this?", "length"),
        ("What does the above code return when called?", None),
        ("What is the difference between a list and a list?", "stutters"),
        ("What is a list; what is a tuple?", "list_or_preamble"),
        ("In this context what are generators used for?", "points_at_text"),
        ('What does the "unary "minus" operator yield?', "not_language"),
        ("Explain how the return statement works, please?", "not_a_question"),
    ],
)
def test_what_a_well_formed_question_is(question, reason):
    fault = well_formed(question)
    assert (fault.reason if fault else None) == reason


def test_questions_come_from_the_text_but_do_not_copy_it():
    text = "The boiler closes its red valve at ninety degrees to protect the pipes."
    assert grounded("When does the boiler close the red valve?", text) is None
    assert grounded("When does the dragon close the red castle?", text).reason == "not_grounded"
    assert grounded('What does the "green" valve of the boiler protect?', text).reason == "not_grounded"
    assert grounded("What does it mean?", text).reason == "unspecific"
    assert copies("When does the boiler close the red valve?", text) is None
    assert copies("The boiler closes its red valve at ninety degrees to protect?", text).reason == "copy"


def test_duplicates_are_seen_through_wording_but_not_through_names():
    seen = Duplicates()
    assert seen.first('What does the "+" operator yield?') is None
    assert seen.first('What does the "-" operator yield?') is None
    assert seen.first('What do the "+" operators yield ?') is not None
    assert seen.first("What does version 3.11 add to the with statement?") is None
    assert seen.first("What does version 3.12 add to the with statement?") is None
    assert seen.first("What does the with statement add to version 3.12?") is not None


@pytest.mark.slow
def test_the_short_cut_to_duplicates_finds_what_looking_at_every_question_finds():
    rng = random.Random(5)
    said = ["what", "does", "the", "red", "valve", "boiler", "close", "open", "at", "ninety", "degrees", "3.11", "3.12"]

    class EachByEach(Duplicates):
        def _may_repeat(self, form, own):
            return True

    quick, slow, found = Duplicates(), EachByEach(), 0
    for _ in range(1500):
        words = rng.sample(said, rng.randint(3, 8))
        if rng.random() < 0.5:
            words = [word + rng.choice(("", "s", "x")) for word in words]
        question = " ".join(words) + "?"
        earlier = slow.first(question)
        assert quick.first(question) == earlier
        found += earlier is not None
    assert found > 50


def test_questions_alike_are_found_in_blocks_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    wanted = {r: near for r in range(60) if (near := [k for k in range(r) if cosines[r, k] >= 0.9])}
    for rows in (1, 7, 1000):
        monkeypatch.setattr(generate, "_ROWS_AT_ONCE", rows)
        assert dict(generate._alike(vectors, 0.9)) == wanted


TEXT = (
    "The boiler has two valves. The red valve closes at 90 degrees, but the blue one never closes.\n"
    "It is made of brass."
)


@pytest.mark.parametrize(
    ("reply", "quotes", "final", "repairs"),
    [
        (
            "<quote>The red valve closes at 90 degrees</quote>\nSo the answer is a temperature.\nAnswer: 90 degrees",
            ("The red valve closes at 90 degrees",), "90 degrees", (),
        ),
        (
            "<quote>The red valve closses at 90 degrees</quote>\n**Final answer:** at 90 degrees",
            ("The red valve closes at 90 degrees",), "at 90 degrees", ("quote",),
        ),
        (
            "The valve shuts when hot.\nAnswer: The red valve closes at 90 degrees",
            ("The red valve closes at 90 degrees, but the blue one never closes.",),
            "The red valve closes at 90 degrees", ("quote_found",),
        ),
        (
            "##begin_quote##The red valve closes at 90 degrees##end_quote## <ANSWER>: 90 degrees",
            ("The red valve closes at 90 degrees",), "90 degrees", (),
        ),
    ],
)  # fmt: skip
def test_quotes_are_verified_and_repaired(reply, quotes, final, repairs):
    answer = full_answer("When does the red valve close?", reply, TEXT, max_words=20)
    assert isinstance(answer, Answer)
    assert (answer.quotes, answer.final, answer.repairs) == (quotes, final, repairs)
    assert "<quote>" not in answer.reasoning
    assert all(q in TEXT for q in answer.quotes)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("NOT ANSWERABLE", "unanswerable"),
        ("<quote>The red valve closes at 90 degrees</quote>", "no_final_answer"),
        ("<quote>The red valve closes at 90 degrees</quote>\nAnswer: ", "no_final_answer"),
        ("<quote>The red valve closes at 90 degrees</quote>\nAnswer: " + "very " * 30, "answer_too_long"),
        ("<quote>The red valve closes at 90 degrees</quote>\nAnswer: at 80 degrees", "answer_not_supported"),
        (
            "<quote>The red valve closes at 90 degrees</quote>\nAnswer: the valve never closes at 90",
            "answer_not_supported",
        ),
        ("<quote>The dragon sleeps in the tower</quote>\nAnswer: in the tower", "no_verbatim_quote"),
    ],
)
def test_an_answer_that_its_quotes_do_not_carry_is_dropped(reply, reason):
    fault = full_answer("When does the red valve close?", reply, TEXT, max_words=20)
    assert isinstance(fault, Fault)
    assert fault.reason == reason


def test_the_sentence_that_holds_the_answer_supports_it():
    assert supporting_sentence(TEXT, "What is it made of?", "brass").of(TEXT) == "It is made of brass."
    assert supporting_sentence(TEXT, "Who owns Mars?", "nobody") is None
    assert supported("yes", "The red valve closes.", "Does the red valve close?")
    assert not supported("no pressure", "The red valve closes at some pressure.", "What then?")


@pytest.mark.parametrize(
    ("final", "evidence", "expected"),
    [
        ("250 °C", "The kiln is fired at 1,250 °C.", False),
        ("500 people", "The hall seats 3,500 people.", False),
        ("-5 °C", "The store is kept at 5 °C.", False),
        ("5 °C", "The store is kept at -5 °C.", False),
        ("4 litres", "The can takes 1/4 litres.", False),
        ("1250 °C", "The kiln is fired at 1,250 °C.", True),
        ("1,250 °C", "The kiln is fired at 1250 °C.", True),
        ("1250 people", "Der Saal fasst 1 250 people.", True),
        ("-5 °C", "The store is kept at −5 °C.", True),
        ("14-16 hours", "The firing takes 14–16 hours.", True),
        ("in COVID-19 wards", "It is used in COVID-19 wards.", True),
        ("at 10:30 on the 3rd", "It begins at 10:30 on the 3rd of May.", True),
        ("It takes 90 seconds", "It takes 90 seconds, or 1.5 minutes.", True),
    ],
)
def test_a_number_is_supported_by_itself_and_not_by_one_that_it_is_part_of(final, evidence, expected):
    assert supported(final, evidence, "How much is it?") == expected


def test_the_last_of_several_answers_counts():
    reply = (
        "<quote>The red valve closes at 90 degrees</quote>\nThe passage names the valve.\nAnswer: at 80 of the degrees"
        "\nThat was the other valve.\nFinal answer: at 90 degrees"
    )
    answer = full_answer("When does the red valve close?", reply, TEXT, max_words=20)
    assert answer.final == "at 90 degrees"
    assert answer.reasoning == "The passage names the valve. That was the other valve."
    below = "<quote>The red valve closes at 90 degrees</quote>\nAnswer:\n at 90 degrees"
    assert full_answer("When does the red valve close?", below, TEXT, max_words=20).final == "at 90 degrees"


def full_teacher():
    def reply(messages):
        last = messages[-1]["content"]
        if "Question:" not in last:
            return "1. What does the red valve of the boiler do at 90 degrees?"
        return "<quote>The red valve closes at 90 degrees</quote>\nThe passage names the valve.\nAnswer: It closes"

    return ReplayTeacher(default=reply, name="big")


def test_a_capable_teacher_is_asked_twice_and_gives_quotes_and_reasoning():
    chunk, teacher = chunk_of("Boiler", TEXT), full_teacher()
    made = generate_questions([chunk], teacher, lambda q, k: [[Hit(chunk.id, 1.0, 1)]], options=QuestionOptions())
    (question,) = made.questions
    assert len(teacher.calls) == 2
    assert question.quotes[0].text == "The red valve closes at 90 degrees"
    assert question.reasoning == "The passage names the valve."
    assert (question.answer, question.origin) == ("It closes", "teacher:big")


def test_a_failed_item_is_dropped_and_asked_again_next_time():
    made, _ = small({k: v for k, v in REPLIES.items() if "heat pump" not in k}, cache=(cache := MemoryCache()))
    assert [(d.chunk_id, d.reason) for d in made.dropped] == [(CHUNKS[1].id, "teacher_failed")]
    made, teacher = small(cache=cache)
    assert len(teacher.calls) == 1
    assert not made.dropped


def test_equal_prompts_are_asked_once_and_every_setting_is_part_of_the_key():
    teacher = ReplayTeacher(default="yes")
    message = [{"role": "user", "content": "a"}]
    assert ask([message] * 3, teacher, version="1", sampling=Sampling(4), cache=MemoryCache()) == ["yes"] * 3
    assert len(teacher.calls) == 1
    base = {"version": "1", "teacher": "t", "sampling": Sampling(4)}
    changes = [{"version": "2"}, {"teacher": "u"}, {"sampling": Sampling(5)}, {"sampling": Sampling(4, 0.1)}]
    changes += [{"sampling": Sampling(4, seed=1)}, {"sampling": Sampling(4, stop=("x",))}]
    keys = {reply_key(message, **{**base, **change}) for change in [{}, *changes]}
    assert len(keys) == 1 + len(changes)


def test_a_template_of_the_users_own_is_used_versioned_and_checked(tmp_path):
    own = tmp_path / "full" / "question.jinja"
    own.parent.mkdir()
    own.write_text("{% block user %}Frage zu {{ text }}?{% endblock %}")
    prompt = load_prompt("full/question", slots=("text",), folder=tmp_path)
    assert prompt.messages(text="{{ x }} {% block system %}") == [
        {"role": "user", "content": "Frage zu {{ x }} {% block system %}?"}
    ]
    assert prompt.version != load_prompt("full/question", slots=("text",)).version
    for source, message in {
        "{% block user %}hello{% endblock %}": "lacks the slot text",
        "{{ text }}": "no user message",
        "{% block user %}{{ text }}": "template",
        "{% block user %}{{ text }}{% endblock %}{% block owner %}x{% endblock %}": "no message is called owner",
    }.items():
        own.write_text(source)
        with pytest.raises(BadInput, match=message):
            load_prompt("full/question", slots=("text",), folder=tmp_path)
    with pytest.raises(BadInput, match="no template folder"):
        load_prompt("full/question", slots=(), folder=tmp_path / "none")
    assert {p.name for p in OWN_TEMPLATES.iterdir()} == {"small", "full", "reasoning.jinja"}


def test_a_failing_teacher_is_named_and_options_are_checked():
    assert TeacherFailure("timeout").transient is False
    with pytest.raises(BadInput, match="style"):
        QuestionOptions(style="medium")
    with pytest.raises(BadInput, match="fewer than one"):
        QuestionOptions(max_questions=0)


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("A ledger is a book of payments.", "What is a ledger?", "a book of payments"),
        ("Smoke detectors are used to warn people.", "What are smoke detectors used for?", "to warn people"),
        ("The term means a fixed order of events.", "What does the term mean?", "a fixed order of events"),
        ("The filter also matches all hidden files.", "What does the filter match?", "all hidden files"),
        ("Safety valves prevent damage to the boiler.", "What do safety valves prevent?", "damage to the boiler"),
        ("The plan depends on the weather in May.", "What does the plan depend on?", "the weather in May"),
        ("Names may be resolved in both rooms.", "Where may names be resolved?", "in both rooms"),
        ("Keys can be changed by the owner.", "How can keys be changed?", "by the owner"),
        ("The value must refer to a room.", "What must the value refer to?", "a room"),
        ("Tokens can be used to open doors.", "What can tokens be used for?", "to open doors"),
        ("The gate stays shut until the train has passed.", "", "until the train has passed"),
        ("The gate is shut until the train has passed.", "Until when is the gate shut?", "until the train has passed"),
        ("Debian offers a list of mirrors.", "What does Debian offer?", "a list of mirrors"),
        ("Rows cannot be read when the disk is full.", "When can rows not be read?", "when the disk is full"),
        ("Names must not collide with other names.", "", "collide with other names"),
        ("If no key is given, all rows are sorted.", "What happens if no key is given?", "all rows are sorted"),
        ("The gate is opened by the old warden.", "How is the gate opened?", "by the old warden"),
        ("Old rows are moved to the archive.", "What are old rows moved to?", "the archive"),
        ("The pump, which is old, returns some water.", "", ""),
    ],
)
def test_a_statement_is_turned_around_by_rule_or_left_alone(sentence, question, answer):
    found = Statement(sentence, Span(0, len(sentence)), *shape(sentence), 1.0)
    made = draft(found, frozenset({"Debian"}))
    assert made == question
    assert small_style.final_answer(made, found) == answer


def test_names_are_told_from_words_that_only_begin_a_sentence():
    texts = [
        "Names are listed. In Debian all names are listed, and Debian lists names.",
        "Lists of names. A Debian list.",
    ]
    assert names_in(texts) == {"Debian"}


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ('What does the "red" valve return to the tank?', 'What does the "red" valve return to the tank?'),
        ('What does the "red" valve returns?', 'What does the "red" valve return?'),
        ('What does the "red" "valve" return?', 'What does the "red" valve return?'),
    ],
)
def test_small_faults_of_a_small_teacher_are_put_right(reply, question):
    made, _ = small({**REPLIES, next(iter(REPLIES)): reply}, mend_questions=False)
    assert question in {q.question for q in made.questions}


def test_a_question_that_does_not_fit_is_mended_by_rule_and_counted():
    made, _ = small({**REPLIES, list(REPLIES)[1]: "What is the weather on Mars like?"})
    assert made.counts["repaired"] == {"question": 1}
    mended = [q for q in made.questions if q.metadata.get("repairs") == ["question"]]
    assert [q.question for q in mended] == ["What is a heat pump?"]
    assert len(made.questions) == len(FACTS)


def test_three_percent_of_the_documents_changed_costs_three_percent_of_the_calls():
    def corpus(edited):
        for d in range(200):
            yield chunk_of(f"doc {d}", f"The tank {d} must hold {d} litres of {'oil' if d in edited else 'water'}.")

    def run(edited, cache):
        teacher = ReplayTeacher(default="What?", name="counting")
        generate_questions(list(corpus(edited)), teacher, find_own, options=SMALL, cache=cache)
        return len(teacher.calls)

    cache = MemoryCache()
    whole = run((), cache)
    assert whole == 200
    assert run((), cache) == 0
    assert 0 < run({5, 50, 99, 120, 121, 199}, cache) <= 0.035 * whole


def test_questions_that_mean_the_same_are_dropped_where_an_embedder_is_given():
    def embed(texts):
        return np.array([[1.0, 0.0] if "heat pump" in t or "valve" in t else [0.0, 1.0] for t in texts], np.float32)

    made = generate_questions(CHUNKS[:3], ReplayTeacher(REPLIES), find_own, options=SMALL, embed=embed)
    assert len(made.questions) == 3  # the valve is named, so its question is another one
    made = generate_questions(CHUNKS[1:5], ReplayTeacher(REPLIES), find_own, options=SMALL, embed=embed)
    assert made.counts["dropped"] == {"duplicate": 1}  # deposit and tenant; the road's question names March
    assert all("means the same as" in d.detail for d in made.dropped)


def test_kinds_are_drawn_by_seed_for_a_capable_teacher():
    chunks = [
        chunk_of(f"boiler {n}", f"Boiler {n} has valves. The red valve closes at {n} degrees.") for n in range(40)
    ]

    def kinds(seed):
        teacher = ReplayTeacher(default="What?")
        options = QuestionOptions(kinds=("factoid", "how_to", "yes_no"), seed=seed, max_questions=None)
        generate_questions(chunks, teacher, find_own, options=options)
        asked = [m[-1]["content"] for m in teacher.calls]
        return ["yes or no" in a for a in asked], ["step by step" in a for a in asked]

    assert kinds(0) == kinds(0)
    assert kinds(0) != kinds(1)
    assert all(any(k) and not all(k) for k in kinds(0))
    with pytest.raises(BadInput, match="kind 'riddle'"):
        QuestionOptions(kinds=("riddle",))


def test_a_yes_or_no_needs_a_quote_about_the_question():
    reply = "<quote>The red valve closes at 90 degrees</quote>\nAnswer: Yes"
    assert full_answer("Does the red valve close?", reply, TEXT, max_words=20).final == "Yes"
    assert full_answer("Does Mars rotate?", reply, TEXT, max_words=20).reason == "answer_not_supported"


@pytest.mark.parametrize(
    ("sentence", "question", "reason"),
    [
        (
            "The first value of a call is set by its last line.",
            "What is the first value of a call?",
            "asks_something_else",
        ),
        ("The first value of a call is set by its last line.", "How is the first value of a call set?", None),
        ("Rows can be followed by any number of notes.", "What can rows be?", "unspecific"),
        ("Sorted rows can be followed by any number of notes.", "What can sorted rows be?", "unspecific"),
        (
            "Sorted rows of data can be followed by any notes.",
            "What can sorted rows of data be?",
            "asks_something_else",
        ),
        ("Loops of any kind may occur only in the body.", "What may loops of any kind occur?", "asks_something_else"),
        (
            "The old names must not collide with our new keys.",
            "What must the old names collide with?",
            "asks_something_else",
        ),
        ("A key is used to open the old door.", "What is the key?", "asks_something_else"),
        ("If the old iron tank is empty, the pump stops.", "What is the old iron tank?", "asks_something_else"),
        (
            "The pump returns hot water to the old tank.",
            "What does the pump return to the hot water tank?",
            "gives_answer_away",
        ),
    ],
)
def test_a_question_must_fit_its_sentence(sentence, question, reason):
    fault = small_style.fits(question, Statement(sentence, Span(0, len(sentence)), *shape(sentence), 1.0), sentence)
    assert (fault.reason if fault else None) == reason
