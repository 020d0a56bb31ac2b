"""A question is placed where its answer stands, in whatever way the row names it, and nowhere else."""

import datetime

import pytest

from data.nouns import Chunk, Hit, digest, text_sha256
from data.questions.importing import import_questions
from data.questions.library import Library, comparable
from data.text.holding import held_as, holds


def chunk_of(source, text, ordinal=0, title=""):
    document = digest(source)
    return Chunk(
        id=digest(document, str(ordinal), text), document_id=document, ordinal=ordinal, text=text, start=0,
        end=len(text), tokens=9, sha256=text_sha256(text), source=source, title=title,
    )  # fmt: skip


SOURCES = ("guide/de/start.md", "guide/C# notes.md", "start.md", "https://www.lake.example/a/depth.html", "qa.jsonl#r7")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("guide/de/start.md", 0),
        ("./guide/de/start.md", 0),
        ("guide\\de\\start.md", 0),
        ("docs/guide/de/start.md", 0),
        ("/home/me/docs/guide/de/start.md", 0),
        ("C:\\work\\docs\\guide\\de\\start.md", 0),
        ("file:///srv/guide/de/start.md", 0),
        ("Guide/DE/Start.md", 0),
        ("de/start", 0),
        ("de/start.md#chapter-2", 0),
        ("C# notes.md", 1),
        ("C# notes", 1),
        ("C%23%20notes.md", 1),
        ("docs/start.md", 2),
        ("http://lake.example/a/depth.html", 3),
        ("depth.html", 3),
        ("r7", 4),
        ("qa.jsonl#r7", 4),
    ],
)
def test_a_document_is_known_by_every_path_that_people_write(name, place):
    chunks = [chunk_of(source, f"Text of {source}.") for source in SOURCES]
    assert Library(chunks).named(name) == [chunks[place].document_id]


def test_a_path_through_another_folder_names_no_document():
    chunks = [chunk_of(source, f"Text of {source}.") for source in SOURCES[:2]]
    for name in ("guide/fr/start.md", "notes", "qa.jsonl", "guide"):
        assert Library(chunks).named(name) == []
    decomposed = "Cafe\u0301.md"
    assert Library([chunk_of("Café.md", "x")]).named(decomposed) == [digest("Café.md")]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("The valley had 1,234,567 people.", "1234567", "1,234,567"),
        ("Das Tal hatte 1.234.567 Einwohner.", "1234567", "1.234.567"),
        ("The toll is 3.50 a cart.", "3.5", "3.50"),
        ("It opened in 2019.", "2019.0", "2019"),
        ("A fee of 5 euros.", "5", "5"),
        ("A fee of 2.5 euros.", "5", ""),
        ("A fee of 15 euros.", "5", ""),
        ("A fee of 3,000 euros.", "3", ""),
        ("It holds 1.234 litres.", "1234", ""),
        ("Version 2.5.1 is out.", "2.5", ""),
        ("员工享有二十五天年假。", "十五天", ""),
        ("员工享有十五天年假。", "十五天", "十 五 天"),
        ("共15天。", "5天", ""),
        ("It opened on 12 April 2019 at noon.", "2019-04-12", "12 april 2019"),
        ("It opened on April 12th, 2019.", "2019-04-12", "april 12th, 2019"),
        ("Am 12.04.2019 wurde sie eröffnet.", "2019-04-12", "12.04.2019"),
        ("大桥于2019年4月12日开放。", "2019-04-12", "2019 年 4 月 12 日"),
        ("It opened on 04/12/2019.", "2019-04-12", ""),  # or on the fourth of December
        ("It opened on 04/22/2019.", "2019-04-22", "04/22/2019"),
        ("It opened on 12 May 2019.", "2019-04-12", ""),
        ("They went to Café Zürich’s bar.", "Cafe\u0301 Zu\u0308rich's bar", "café zürich's bar"),
        ("The Parisian harbour", "Paris", ""),
        ("노트북은 서울에 있다.", "서울", "서 울"),
        ("Fill the cup to 1/4.", "4", ""),
        ("Fill the cup to 1/4.", "1", ""),
        ("Fill 1/4 cup of it.", "4 cup", ""),
        ("Fill 1/4 cup of it.", "1/4 cup", "1/4 cup"),
        ("It fell by -5 % in May.", "5 %", ""),
        ("It fell by −5 % in May.", "5", ""),
        ("It fell by -5 % in May.", "-5 %", "-5 %"),
        ("It lasts 14–16 hours.", "16 hours", ""),
        ("It lasts 14–16 hours.", "14-16 hours", "14-16 hours"),
        ("It lasts twenty-four months.", "four months", ""),
        ("It lasts twenty-four months.", "twenty", ""),
        ("It lasts twenty-four months.", "twenty-four months", "twenty-four months"),
        ("Le bail dure vingt-quatre mois.", "quatre mois", ""),
        ("A four-month lease.", "four", "four"),
        ("It spread as COVID-19.", "19", ""),
        ("It ran 1998–2003 and closed on 12/04/2003.", "2003", "2003"),
        ("The toll—5 euros—is due.", "5 euros", "5 euros"),
        ("It is a 90-day trial of -5 or 5 parts.", "5", "5"),
    ],
)
def test_an_answer_stands_as_whole_words_and_numbers(text, answer, expected):
    assert held_as(comparable(text), answer) == expected
    assert holds(comparable(text), answer) == bool(expected)


def test_a_number_becomes_the_answer_as_the_passage_writes_it():
    chunk = chunk_of("a.md", "The valley had 1,234,567 people in the year 2019.")
    rows = [
        {"question": "How many people had the valley?", "answer": 1234567.0, "document": "a.md"},
        {"question": "In which year was it?", "answer": "2019.0", "document": "a.md"},
    ]
    questions = import_questions(rows, [chunk]).questions
    assert [q.answers for q in questions] == [("1,234,567", "1234567"), ("2019", "2019.0")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The bridge was opened on April 12th, 2019, by the mayor.", "April 12th, 2019"),
        ("大桥于2019年4月12日开放。", "2019年4月12日"),
    ],
)
def test_a_date_becomes_the_answer_as_the_passage_writes_it(text, expected):
    row = {"question": "When was it opened?", "answer": datetime.date(2019, 4, 12), "document": "a.md"}
    (question,) = import_questions([row], [chunk_of("a.md", text)]).questions
    assert question.answers == (expected, "2019-04-12")


def test_another_number_is_another_answer_however_many_words_are_there():
    chunk = chunk_of("a.md", "The red valve of the old boiler closes at 80 degrees.")
    good = {"question": "Which valve closes?", "answer": "the red valve", "document": "a.md"}
    for more in ({"document": "a.md"}, {}):
        row = {"question": "When does the valve close?", "answer": "The red valve closes at 90 degrees.", **more}
        made = import_questions([good, row], [chunk], lambda queries, k: [[Hit(chunk.id, 0.9, 1)] for _ in queries])
        assert [d.reason for d in made.dropped] == ["answer_not_found"]


FREE = {
    "question": "Why do keepers light the lamp?",
    "answer": "Because boats could otherwise run onto rocks when evening falls over the bay.",
    "document": "lamp.md",
}


def test_a_free_answer_falls_back_to_the_best_passage_of_the_document_it_names():
    chunks = [
        chunk_of("lamp.md", "The lamp was bought in spring by the town."),
        chunk_of("lamp.md", "Keepers light it before evening, so that boats stay clear of the rocks.", 1),
        chunk_of("other.md", "Boats, rocks and the evening in the bay are painted by many."),
    ]
    made = import_questions([FREE], chunks)
    assert made.questions[0].gold_chunk_ids == (chunks[1].id,)
    assert made.questions[0].metadata["placed_by"] == "document"


@pytest.mark.parametrize(("score", "kept"), [(0.7, 1), (0.3, 0)])
def test_a_free_answer_in_no_word_of_its_document_takes_a_hit_there_from_min_score(score, kept):
    chunks = [chunk_of("lamp.md", "A beacon burns from dusk."), chunk_of("other.md", "The mill turns.")]
    other = {"question": "What turns?", "answer": "the mill", "document": "other.md"}

    def search(queries, k):
        return [[Hit(chunks[1].id, 0.9, 1), Hit(chunks[0].id, score, 2)] for _ in queries]

    made = import_questions([FREE, other], chunks, search)
    assert [q.gold_chunk_ids for q in made.questions] == [(chunks[0].id,)] * kept + [(chunks[1].id,)]


def test_a_context_that_is_the_whole_document_narrows_the_search_to_it():
    shared = "The toll is paid at the gate."
    towns = ("Alder", "Birch", "Cedar")
    texts = {
        n: [f"The town of {n} lies on the river and has a mill.", f"In {n} the carts wait. {shared}"] for n in towns
    }
    chunks = [chunk_of(f"{n}.md", part, i) for n, parts in texts.items() for i, part in enumerate(parts)]
    rows = [
        {"question": "Where is the toll paid?", "answer": "at the gate", "context": " ".join(texts["Cedar"])},
        {"question": "What lies on the river?", "answer": "town with mill", "context": "\n\n".join(texts["Birch"])},
    ]
    questions = import_questions(rows, chunks).questions
    assert [q.gold_chunk_ids for q in questions] == [(chunks[5].id,), (chunks[2].id,)]


def test_every_passage_that_is_needed_is_gold_and_one_that_is_missing_drops_the_row():
    chunks = [chunk_of("birch.md", "# Birch\n\nBirch has an iron bridge over the river."),
              chunk_of("keepers.md", "The gates of Birch are opened by the smith.")]  # fmt: skip
    row = {
        "question": "Who opens the gates of the town with the bridge?", "answer": "the smith",
        "paragraphs": [
            {"title": "a", "paragraph_text": "Birch has an iron bridge over the river.", "is_supporting": True},
            {"title": "b", "paragraph_text": "The gates of Birch are opened by the smith.", "is_supporting": True},
        ],
    }  # fmt: skip
    (question,) = import_questions([row], chunks).questions
    assert question.gold_chunk_ids == tuple(c.id for c in chunks)
    good = {"question": "Who opens the gates?", "answer": "the smith", "document": "keepers.md"}
    made = import_questions([row, good], chunks[1:])
    assert [d.reason for d in made.dropped] == ["gold_not_found"]


def test_the_same_question_with_another_accepted_answer_is_merged():
    chunk = chunk_of("lamp.md", "The ships are led in by the keeper's lamp on the western wall.")
    rows = [
        {"id": "1", "question": "What leads the ships in?", "answer": "the keeper's lamp", "document": "lamp.md"},
        {"id": "1", "question": "What leads the ships in?", "answer": "a light", "document": "lamp.md"},
        {"id": "2", "question": "What leads  the ships in?", "answer": "lamp", "source": "./lamp.md"},
    ]
    made = import_questions(rows, [chunk])
    assert [q.answers for q in made.questions] == [("the keeper's lamp", "a light", "lamp")]
    assert (made.counts["asked"], made.counts["merged"], made.dropped) == (1, 2, [])


def test_rows_that_contradict_one_another_are_told():
    chunk = chunk_of("a.md", "The red valve closes at night. It is checked in spring.")
    rows = [
        {"question": "Is the valve checked?", "answer": "yes", "document": "a.md"},
        {"question": "Is the valve checked?", "answer": "no", "document": "a.md"},
        {"question": "When does it close?", "answer": "at night", "document": "a.md"},
        {"question": "When does it close?", "answer": "", "answerable": False, "document": "a.md"},
    ]
    made = import_questions(rows, [chunk])
    assert [(d.row, d.reason, d.detail) for d in made.dropped] == [
        ("2", "contradicts", "row 1"),
        ("4", "contradicts", "row 3"),
    ]


GERMAN = ["Der Kessel hat zwei Ventile. Das rote Ventil schließt bei neunzig Grad.",
          "Die Pumpe ist im Keller und wird von der Werkstatt geprüft.",
          "Das Tor und die Mauer sind von der Stadt, und sie ist die Eigentümerin."]  # fmt: skip


def test_words_without_meaning_are_those_of_the_corpus_language():
    chunks = [chunk_of(f"{i}.md", text) for i, text in enumerate(GERMAN)]
    hits = [Hit(chunk.id, 0.9 - i / 10, i + 1) for i, chunk in enumerate(reversed(chunks))]
    row = {"question": "Wer prüft die Pumpe?", "answer": "die Werkstatt, und die ist in dem Keller"}
    good = {"question": "Was schließt?", "answer": "das rote Ventil"}
    made = import_questions([row, good], chunks, lambda queries, k: [hits for _ in queries])
    # in English eyes "die", "und", "ist", "der" are words, and the wall holds most of the answer
    assert [q.gold_chunk_ids for q in made.questions] == [(chunks[1].id,), (chunks[0].id,)]


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("# 年假\n\n员工每年享有十五天带薪年假。年假必须在三月底之前用完。", "员工每年享有多少天年假？", "十五天"),
        ("有給休暇は年に十五日あります。翌年三月末までに使ってください。", "有給休暇は年に何日ありますか？", "十五日"),
        ("พนักงานมีสิทธิลาพักร้อนปีละสิบห้าวัน", "พนักงานลาพักร้อนได้ปีละกี่วัน", "สิบห้าวัน"),
        ("노트북은 서울에 있다. 열쇠는 부산에 있다.", "노트북은 어디에 있는가?", "서울"),
        ("वाल्व नब्बे डिग्री पर बंद होता है।", "वाल्व कब बंद होता है?", "नब्बे डिग्री"),
    ],
)
def test_answers_are_found_in_every_script(text, question, answer):
    chunks = [chunk_of("a.md", text), chunk_of("b.md", "别的文件说别的事。")]
    (placed,) = import_questions([{"question": question, "answer": answer, "document": "a.md"}], chunks).questions
    assert placed.metadata["placed_by"] == "answer"
    assert answer in placed.quotes[0].text


def placed(text, question, answer, **more):
    """Quote and way of the one question, asked of a document of this text; the reason where it was dropped."""
    chunks = [chunk_of("a.md", text), chunk_of("b.md", "The harbour wall is painted white.")]
    good = {"question": "What is painted white?", "answer": "The harbour wall", "document": "b.md"}
    result = import_questions([{"question": question, "answer": answer, "document": "a.md", **more}, good], chunks)
    if result.dropped:
        return result.dropped[0].reason, ""
    return result.questions[0].quotes[0].text, result.questions[0].metadata["placed_by"]


@pytest.mark.parametrize(
    ("text", "question", "answer", "quote"),
    [
        (
            "The mill has two wheels. Its owner is Dr. Hill! Grant of Alder bought the mill. It is old.",
            "Who owns the mill?",
            "Hill! Grant of Alder",
            "Its owner is Dr. Hill! Grant of Alder bought the mill.",
        ),
        (
            "Der Turm ist alt. Der Turm steht seit dem Jahr 3. Oktober ist sein Monat. Er ist rot.",
            "Seit wann steht der Turm?",
            "Jahr 3. Oktober",
            "Der Turm steht seit dem Jahr 3. Oktober ist sein Monat.",
        ),
        (
            "ผู้จัดการฝ่ายอาคารและสถานที่ของบริษัทแห่งนี้คือคุณสมชาย ใจดี เป็นผู้ดูแลกุญแจทั้งหมดของอาคารสำนักงานใหญ่",
            "ผู้จัดการฝ่ายอาคารคือใคร",
            "คุณสมชาย ใจดี",
            "ผู้จัดการฝ่ายอาคารและสถานที่ของบริษัทแห่งนี้คือคุณสมชาย ใจดี เป็นผู้ดูแลกุญแจทั้งหมดของอาคารสำนักงานใหญ่",
        ),
    ],
)
def test_an_answer_that_no_single_sentence_holds_is_quoted_with_all_the_sentences_it_stands_in(
    text, question, answer, quote
):
    assert placed(text, question, answer) == (quote, "answer")


@pytest.mark.parametrize(
    ("text", "question", "answer", "quote"),
    [
        ("# Kiln\n\nIs the kiln hot?\n\nThe kiln is fired on Mondays.", "Is the kiln fired daily?", "no",
         "The kiln is fired on Mondays."),
        ("# Is the kiln fired daily\nThe kiln is fired on Mondays.", "Is the kiln fired daily?", "no",
         "The kiln is fired on Mondays."),
        ("The kiln\n--------\nIt is fired on Mondays.", "Is the kiln hot?", "no", "It is fired on Mondays."),
        ("The gate is red. Is there a lift? At the back of the hall. There is a stair.", "Is there a lift?", "yes",
         "At the back of the hall."),
        ("Is there a lift?", "Is there a lift?", "yes", "Is there a lift?"),  # there is nothing else
        ("# Piec\n\nPiec stoi w piwnicy. Nie wolno palić.", "Czy piec stoi w piwnicy?", "tak", "Piec stoi w piwnicy."),
    ],
)  # fmt: skip
def test_a_verdict_rests_on_a_statement(text, question, answer, quote):
    assert placed(text, question, answer) == (quote, "overlap")


def test_the_word_of_a_verdict_is_no_evidence_of_it():
    chunks = [
        chunk_of("a.md", "Visitors need no ticket. Cats are allowed in the yard alone."),
        *(chunk_of(f"{i}.md", text) for i, text in enumerate(GERMAN)),
    ]
    row = {"question": "Are cats allowed?", "answer": "no", "document": "a.md"}
    (question,) = import_questions([row], chunks).questions
    assert question.quotes[0].text == "Cats are allowed in the yard alone."


@pytest.mark.parametrize("answer", ["tak", "Nie.", "ano", "ні", "nem", "kyllä", "nu", "όχι", "नहीं", "لا"])
def test_yes_and_no_of_more_languages_are_verdicts(answer):
    rows = [{"question": "What of the wall?", "answer": answer, "document": "a.md"}]
    (question,) = import_questions(rows, [chunk_of("a.md", "The wall is high.")]).questions
    assert question.kind == "yes_no"


@pytest.mark.parametrize(
    ("text", "question", "answer", "expected"),
    [
        ("The firing takes 14–16 hours.", "How long does the firing take?", "three hours", "answer_not_found"),
        ("The firing takes two hours.", "How long does the firing take?", "three hours", "answer_not_found"),
        ("The firing takes 3 hours of work.", "How long does the firing take?", "three work hours",
         "The firing takes 3 hours of work."),
        ("The mill stops for two weeks. The kiln stops in May for three long weeks.", "How long does the mill stop?",
         "three weeks in May", "The kiln stops in May for three long weeks."),
    ],
)  # fmt: skip
def test_a_sentence_with_another_number_is_no_evidence(text, question, answer, expected):
    assert placed(text, question, answer)[0] == expected


@pytest.mark.parametrize(
    ("texts", "question", "answer"),
    [
        (["Die Frist beträgt zwei Wochen nach der Lieferung."], "Wie lang ist die Frist?", "drei Wochen"),
        (["Le bail dure deux mois dans la ville et la maison."], "Combien dure le bail ?", "trois mois"),
        (["El plazo es de dos semanas para la entrega de la casa."], "¿Cuánto dura el plazo?", "tres semanas"),
        (["Termin wynosi dwa tygodnie od dnia, w którym jest dostawa."], "Ile wynosi termin?", "trzy tygodnie"),
    ],
)
def test_number_words_are_those_of_the_corpus_language(texts, question, answer):
    chunks = [chunk_of("a.md", text * 3) for text in texts]
    good = {"question": "?? " + question, "answer": texts[0].rstrip("."), "document": "a.md"}
    result = import_questions([{"question": question, "answer": answer, "document": "a.md"}, good], chunks)
    assert [d.reason for d in result.dropped] == ["answer_not_found"]


def test_a_quote_with_another_number_than_the_answer_is_no_evidence_of_it():
    text = "The toll is 5 euros for a cart. On feast days a cart pays 7 euros."
    quote = {"quote": "The toll is 5 euros for a cart."}
    assert placed(text, "What does a cart pay?", "7 euros", **quote) == ("On feast days a cart pays 7 euros.", "answer")
    assert placed(text, "What does a cart pay?", "9 euros", **quote) == ("answer_not_found", "")
    assert placed(text, "What does a cart pay?", "9 euros", document="", **quote) == ("answer_not_supported", "")
    assert placed(text, "What does a cart pay?", "five euros", **quote) == (quote["quote"], "quote")
    assert placed(text, "Who pays?", "a cart", **quote) == (quote["quote"], "quote")


def test_a_copy_that_was_left_out_names_the_document_that_has_its_text():
    chunks = [chunk_of("copy of leave.md", "Leave is 28 days."), chunk_of("guide/b.md", "Keys are rotated.")]
    copies = {"handbook/leave.md": "copy of leave.md", "a.md": "guide/b.md", "guide/b.md": "copy of leave.md"}
    library = Library(chunks, copies=copies)
    first, second = (chunk.document_id for chunk in chunks)
    assert library.named("handbook/leave.md") == library.named("leave.md") == [first]
    assert library.named("a.md") == [second]
    assert library.named("guide/b.md") == [second], "its own name counts first"
