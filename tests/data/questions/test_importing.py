"""A team's own questions find their chunk and a verbatim quote, or are dropped with a reason that can be read."""

import dataclasses
import gzip
import json

import pytest

from data.nouns import Chunk, Document, Hit, digest, text_sha256
from data.questions.importing import ImportOptions, import_questions, with_feedback
from raft_errors import BadInput

TEXTS = {
    "guide/boiler.md": (
        "Boiler",
        ["The boiler has two valves. The red valve closes at 90 degrees.", "Descale the boiler every six months."],
    ),
    "guide/pump.md": ("Heat pump", ["A heat pump moves heat.\nIts efficiency falls when the air is very cold."]),
}


def corpus(texts=TEXTS):
    chunks = []
    for source, (title, parts) in texts.items():
        start = 0
        for ordinal, text in enumerate(parts):
            doc = digest(source)
            chunks.append(
                Chunk(
                    digest(doc, str(ordinal), text),
                    doc,
                    ordinal,
                    text,
                    start,
                    start + len(text),
                    9,
                    text_sha256(text),
                    source,
                    title,
                )
            )
            start += len(text) + 1
    return chunks


CHUNKS = corpus()


def word_search(chunks, scale=1.0):
    """Ranks by shared words; enough of a retriever for a handful of chunks."""

    def search(queries, k):
        found = []
        for query in queries:
            asked = set(query.lower().strip("?").split())
            scored = sorted((-len(asked & set(c.text.lower().split())), c.id) for c in chunks)
            found.append([Hit(i, -s * scale, n + 1) for n, (s, i) in enumerate(scored[:k])])
        return found

    return search


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def one(rows, search=None, **more):
    made = import_questions(rows, CHUNKS, search, **more)
    assert all(q.text in {c.id: c for c in CHUNKS}[q.chunk_id].text for made_q in made.questions for q in made_q.quotes)
    assert made.counts["asked"] == len(made.questions) + len(made.dropped)
    return made


@pytest.mark.parametrize("name", ["guide/boiler.md", "boiler.md", "boiler", "Boiler", digest("guide/boiler.md")])
def test_the_answer_is_found_in_the_named_document(name):
    made = one([{"question": "When does the red valve close?", "answer": "at 90 degrees", "document": name}])
    question = made.questions[0]
    assert question.gold_chunk_ids == (CHUNKS[0].id,)
    assert question.quotes[0].text == "The red valve closes at 90 degrees."
    assert (question.answer, question.origin, question.metadata["placed_by"]) == ("at 90 degrees", "user", "answer")


def test_a_quote_says_which_chunk_even_without_a_document_and_is_repaired():
    rows = [
        {
            "query": "When does it fall?",
            "response": "In the cold",
            "quote": "Its efficiency falls when the air is very cold",
        }
    ]
    question = one(rows).questions[0]
    assert question.gold_chunk_ids == (CHUNKS[2].id,)
    assert question.metadata["placed_by"] == "quote"


def test_without_document_or_quote_the_retriever_finds_it():
    rows = [{"question": "How often should one descale the boiler every year?", "answer": "every six months"}]
    question = one(rows, word_search(CHUNKS)).questions[0]
    assert question.gold_chunk_ids == (CHUNKS[1].id,)
    assert question.metadata["placed_by"] == "retrieval"
    assert question.difficulty == 1


def test_yes_no_takes_the_sentence_that_the_reasoning_points_to():
    rows = [
        {
            "question": "Is a heat pump good in winter?",
            "answer": "no",
            "long_answer": "Its efficiency falls in cold air.",
            "source": "pump",
        },
        {"question": "Does the heat pump work?", "answer": "yes"},
    ]
    made = one(rows, word_search(CHUNKS, scale=0.01))
    assert made.questions[0].kind == "yes_no"
    assert made.questions[0].quotes[0].text == "Its efficiency falls when the air is very cold."
    assert made.dropped[0].reason == "gold_not_found"  # no hit scores enough


def test_yes_no_on_an_abstract_with_sections_rests_on_what_was_found_and_not_on_how():
    found = "Fever fell in both groups alike."
    text = (
        "BACKGROUND: Willow bark is given against fever in children with otitis.\n"
        "METHODS: Children with fever and otitis were given willow bark or a placebo by drawing lots.\n"
        f"MAIN RESULTS: Forty children took part. {found}"
    )
    row = {
        "question": "Does willow bark help children with otitis?",
        "answer": "no",
        "long_answer": "Willow bark was no better than a placebo: fever fell alike in children given either.",
        "source": "willow",
    }
    (question,) = import_questions([row], corpus({"willow.md": ("", [text])})).questions
    assert question.quotes[0].text == found


def test_rows_that_cannot_be_used_are_dropped_with_their_reason():
    rows = [
        {"id": "a", "question": "When does the red valve close?", "answer": "at 90 degrees", "document": "boiler"},
        {"id": "a", "question": "When does it close?", "answer": "at 90 degrees", "document": "boiler"},
        {"id": "b", "question": "", "answer": "x", "document": "boiler"},
        {"id": "c", "question": "What colour?", "answer": "", "document": "boiler"},
        {"id": "d", "question": "What colour?", "answer": "red", "document": "cellar"},
        {"id": "e", "question": "Who built it?", "answer": "Watt", "document": "boiler"},
        {"id": "f", "question": "Who built it?", "answer": "Watt", "document": ""},
        {"id": "g", "question": "", "answers": [], "answerable": False, "document": "boiler"},
    ]  # fmt: skip
    made = one(rows, word_search(CHUNKS))
    assert [(d.row, d.reason) for d in made.dropped] == [
        ("a", "duplicate_id"),
        ("b", "empty_question"),
        ("c", "empty_answer"),
        ("d", "unknown_document"),
        ("e", "answer_not_found"),
        ("f", "answer_not_found"),
        ("g", "empty_question"),
    ]


def test_a_row_without_an_answer_is_to_be_refused_beside_the_passage_it_was_asked_of():
    rows = [
        {"question": "When does the red valve close?", "answer": "at 90 degrees", "document": "boiler"},
        {"question": "Who built the valves?", "answerable": False, "answer": "", "document": "boiler"},
        {"question": "Who built the heat pump?", "answerable": "false", "answer": ""},
    ]
    made = one(rows, word_search(CHUNKS))
    refused = made.questions[1:]
    assert [q.kind for q in refused] == ["unanswerable"] * 2
    assert [next(c.title for c in CHUNKS if c.id == q.gold_chunk_ids[0]) for q in refused] == ["Boiler", "Heat pump"]
    assert made.counts["placed_by"]["unanswerable"] == 2
    made = one(rows, None)  # without a retriever, only where a document is named
    assert [d.reason for d in made.dropped] == ["gold_not_found"]


def test_a_file_with_wrong_columns_says_what_it_has_and_what_is_wanted(tmp_path):
    file = write(tmp_path / "qa.jsonl", [{"frage": "When does the red valve close?", "answer": "at 90 degrees"}])
    with pytest.raises(BadInput, match=r"found answer, frage.*Expected: one of question, query"):
        import_questions(file, CHUNKS)
    made = import_questions(
        write(
            tmp_path / "qa2.jsonl",
            [{"frage": "When does the red valve close?", "antwort": "at 90 degrees", "datei": "boiler"}],
        ),
        CHUNKS,
        options=ImportOptions(columns={"question": "frage", "answers": "antwort", "documents": "datei"}),
    )
    assert len(made.questions) == 1
    with pytest.raises(BadInput, match="no column 'query'"):
        import_questions(file, CHUNKS, options=ImportOptions(columns={"question": "query"}))
    with pytest.raises(BadInput, match="'frage' is nothing a row can say"):
        import_questions(file, CHUNKS, options=ImportOptions(columns={"frage": "question"}))


def test_files_of_every_kind_say_the_same(tmp_path):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"id": "1", "question": "When does the red valve close?", "answer": "at 90 degrees", "document": "boiler"}
    write(tmp_path / "a.jsonl", [row])
    (tmp_path / "a.json").write_text(json.dumps({"data": [row]}))
    (tmp_path / "a.csv").write_text(
        "﻿id;question;answer;document\n1;When does the red valve close?;at 90 degrees;boiler\n"
    )
    (tmp_path / "a.tsv").write_text(
        "id\tquestion\tanswer\tdocument\n1\tWhen does the red valve close?\tat 90 degrees\tboiler\n"
    )
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    datasets.Dataset.from_list([row]).save_to_disk(str(tmp_path / "a"))
    made = [
        import_questions(tmp_path / n, CHUNKS).questions
        for n in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a")
    ]
    assert all(m == made[0] for m in made)
    assert import_questions(datasets.Dataset.from_list([row]), CHUNKS).questions == made[0]


def test_damaged_lines_are_dropped_and_mixed_encodings_in_a_table_are_refused(tmp_path):
    good = json.dumps(
        {"question": "When does the red valve close?", "answer": "at 90 degrees", "document": "boiler"}
    ).encode()
    (tmp_path / "q.jsonl").write_bytes(
        good + b"\n{oops\n" + '{"question": "é"}'.encode("latin-1") + b"\n[1]\n" + b"[" * 99999
    )
    made = import_questions(tmp_path / "q.jsonl", CHUNKS)
    assert [d.reason for d in made.dropped] == ["bad_json", "bad_encoding", "bad_json", "bad_json"]
    (tmp_path / "q.csv").write_bytes("question,answer\nCafé?,x\n".encode() + "Où?,y\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"line 3: not UTF-8, while other lines are"):
        import_questions(tmp_path / "q.csv", CHUNKS)
    old = "question,answer,document\nWhen does the red valve close?,at 90 degrees,boiler\nDéjà vu où?,café,boiler\n"
    (tmp_path / "old.csv").write_bytes(old.encode("cp1252"))
    assert len(import_questions(tmp_path / "old.csv", CHUNKS).questions) == 1


def test_half_a_character_in_a_row_costs_that_character_and_no_run(tmp_path):
    row = {"id": "\ud800", "question": "When does the red \udfff valve close?", "answer": "at 90 degrees"}
    row |= {"document": "boiler", "reasoning": "It says so \ud83d.", "quotes": ["\ud800"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    (made,) = import_questions(tmp_path / "q.jsonl", CHUNKS).questions
    assert made.question == "When does the red \ufffd valve close?"
    json.dumps(dataclasses.asdict(made), ensure_ascii=False).encode()
    row["document"] = "nowhere \ud800"
    (tmp_path / "q.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "document": "boiler", "id": "2"}) + "\n"
    )
    (lost,) = import_questions(tmp_path / "q.jsonl", CHUNKS).dropped
    json.dumps(dataclasses.asdict(lost), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["none.jsonl", "q.docx", "empty.jsonl", "bad.json", "deep.json", "bad.parquet"])
def test_a_file_that_cannot_be_read_is_bad_input(tmp_path, name):
    files = {"q.docx": b"x", "empty.jsonl": b"\n", "bad.json": b"{", "deep.json": b"[" * 99999, "bad.parquet": b"PAR0"}
    for made, content in files.items():
        (tmp_path / made).write_bytes(content)
    with pytest.raises(BadInput, match=name.split(".")[0]):
        import_questions(tmp_path / name, CHUNKS)


def test_nothing_placed_is_bad_input_with_the_first_reason(tmp_path):
    with pytest.raises(BadInput, match="unknown document"):
        import_questions([{"question": "Who built it?", "answer": "Watt", "document": "cellar"}], CHUNKS)


def test_nested_layouts_of_squad_hotpot_pubmed_and_gorilla(tmp_path):
    quote = "The red valve closes at 90 degrees."
    squad = {"data": [{"title": "Boiler", "paragraphs": [{"context": " ".join(TEXTS["guide/boiler.md"][1]), "qas": [
        {"id": "s1", "question": "When does it close?", "answers": [{"text": "90 degrees", "answer_start": 50}]},
        {"id": "s2", "question": "Who built it?", "answers": [], "is_impossible": True}]}]}]}  # fmt: skip
    paragraphs = [
        ["Boiler", ["The boiler has two valves. ", quote]],
        ["Heat pump", ["A heat pump moves heat.", " Its efficiency falls when the air is very cold."]],
    ]
    hotpot = [{"_id": "h1", "question": "Which falls, and what closes?", "answer": "the red valve",
               "supporting_facts": [["Boiler", 1], ["Heat pump", 1]], "context": paragraphs}]  # fmt: skip
    pubmed = {
        "boiler": {
            "QUESTION": "Is the boiler safe?",
            "CONTEXTS": [],
            "LONG_ANSWER": "Its valve closes at 90 degrees.",
            "final_decision": "yes",
        }
    }
    gorilla = [{"id": "g", "question": "When does it close?", "context": {"title": [["x"]], "sentences": [["y"]]},
                "cot_answer": f"It says ##begin_quote##{quote}##end_quote## <ANSWER>: at 90 degrees"}]  # fmt: skip
    made = {}
    for name, content in {"squad": squad, "hotpot": hotpot, "pubmed": pubmed, "gorilla": gorilla}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        made[name] = import_questions(tmp_path / f"{name}.json", CHUNKS)
    assert [q.text for q in made["squad"].questions[0].quotes] == [quote]
    unanswerable = made["squad"].questions[1]
    assert (unanswerable.kind, unanswerable.answer, unanswerable.quotes) == ("unanswerable", "", ())
    assert unanswerable.gold_chunk_ids == (CHUNKS[0].id,)
    assert made["hotpot"].questions[0].gold_chunk_ids == (CHUNKS[0].id, CHUNKS[2].id)
    assert len(made["hotpot"].questions[0].document_ids) == 2
    assert (made["pubmed"].questions[0].kind, made["pubmed"].questions[0].quotes[0].text) == ("yes_no", quote)
    assert (made["gorilla"].questions[0].answer, made["gorilla"].questions[0].quotes[0].text) == (
        "at 90 degrees",
        quote,
    )


def test_a_long_answer_keeps_the_sentences_that_its_chunks_hold():
    told = [*TEXTS["guide/boiler.md"][1][0].split(". "), "Descale the boiler every six months."]
    made_up = "Whoever forgets it will be fined by the council of the neighbouring town, which has happened twice. " * 2
    answer = f"{told[0]}. {told[1]} {made_up}{told[2]}"
    rows = [{"question": "What about the boiler?", "answer": answer, "document": "boiler"}]
    (question,) = one(rows).questions
    assert question.gold_chunk_ids == (CHUNKS[0].id, CHUNKS[1].id)
    assert question.answer == f"{told[0]}. {told[1]} {told[2]}"
    assert question.metadata["whole_answer"] == answer
    kept = one(rows, options=ImportOptions(max_answer_words=None)).questions[0]
    assert kept.answer == answer
    assert len(one(rows, options=ImportOptions(max_answer_words=6)).questions[0].answer.split()) <= 6


def test_the_log_of_a_rag_system_gives_what_its_users_were_content_with(tmp_path):
    when = {"question": "When does the red valve close?", "answer": "It closes at 90 degrees."}
    again = {**when, "question": "At what heat does the red valve close?"}
    found = {"text": CHUNKS[0].text, "score": 0.9}
    rows = [
        {**when, "retrieved": [CHUNKS[1].text, found], "thumbs": "up"},
        {**again, "retrieved": [CHUNKS[1].id, {"chunk_id": CHUNKS[0].id}], "thumbs": "up"},
        {**when, "retrieved": ["guide/boiler.md"], "thumbs": 1},
        {**when, "retrieved": [CHUNKS[0].text], "thumbs": "down"},
        {**when, "retrieved": [CHUNKS[2].text], "thumbs": "up"},
        {**when, "retrieved": ["words of another corpus altogether"], "thumbs": None},
    ]
    made = import_questions(write(tmp_path / "log.jsonl", rows), CHUNKS)
    assert [q.gold_chunk_ids for q in made.questions] == [(CHUNKS[0].id,)] * 2
    assert made.counts["merged"] == 1  # the third row asks, answers and finds what the first does
    assert [d.reason for d in made.dropped] == ["thumbs_down", "answer_not_found", "unknown_document"]


def _documents(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf8") as lines:
        for row in map(json.loads, lines):
            source = f"{path.name}#{row['id']}"
            meta = {"id": row["id"], **({"sentences": row["sentences"]} if "sentences" in row else {})}
            yield Document(
                digest(source), source, row["title"], row["text"], "text/plain", text_sha256(row["text"]), metadata=meta
            )


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "file", "least"),
    [("squad_v1_dev", "corpus.jsonl", 0.99), ("hotpotqa", "corpus.jsonl.gz", 0.9), ("pubmedqa", "corpus.jsonl", 0.99)],
)
def test_the_shared_question_sets_are_placed_in_their_gold_documents(shared_data, name, file, least):
    rows = [json.loads(line) for line in (shared_data / name / "questions.jsonl").open(encoding="utf8")][:120]
    wanted = {i for row in rows for i in row["gold_doc_ids"]}
    everything = list(_documents(shared_data / name / file))
    documents = [d for n, d in enumerate(everything) if d.metadata["id"] in wanted or n % 20 == 0]
    chunks = [
        Chunk(digest(d.id, "0", d.text), d.id, 0, d.text, 0, len(d.text), 1, d.sha256, d.source, d.title)
        for d in documents
    ]
    made = import_questions(rows, chunks, documents=documents)
    assert len(made.questions) >= least * len(rows), made.counts
    gold = {d.id: d.metadata["id"] for d in documents}
    by_row = {r["id"]: r for r in rows}
    text_of = {c.id: c.text for c in chunks}
    for question in made.questions:
        assert {gold[i] for i in question.document_ids} <= set(by_row[question.metadata["row_id"]]["gold_doc_ids"])
        assert all(q.text in text_of[q.chunk_id] for q in question.quotes)


def test_rows_that_are_feedback_keep_their_origin_and_an_id_of_their_own():
    row = {"question": "When does the red valve close?", "answer": "at 90 degrees", "document": "guide/boiler.md"}
    both = import_questions([row, {**row, "origin": "feedback"}, {**row, "origin": "the web"}], CHUNKS)
    assert [question.origin for question in both.questions] == ["user", "feedback"]
    assert [question.examinable for question in both.questions] == [True, False]
    assert len({question.id for question in both.questions}) == 2
    assert both.questions[0].gold_chunk_ids == both.questions[1].gold_chunk_ids


def test_feedback_stands_behind_a_set_and_what_cannot_be_placed_stops_nothing(tmp_path):
    own = {"question": "When does the red valve close?", "answer": "at 90 degrees", "document": "guide/boiler.md"}
    file = tmp_path / "accepted.jsonl"
    rows = [
        {"question": "How often is the boiler descaled?", "answer": "every six months", "context": CHUNKS[1].text},
        {"question": "Who paints the bridge?", "answer": "the painter", "context": "The painter paints the bridge."},
        {"question": "What does the boiler cost?", "answer": "", "answerable": False, "context": CHUNKS[0].text},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = import_questions([own], CHUNKS)
    both = with_feedback(asked, file, CHUNKS, word_search(CHUNKS))
    assert both.questions[: len(asked.questions)] == asked.questions
    assert [(q.origin, q.answer, q.kind) for q in both.questions[1:]] == [
        ("feedback", "every six months", "factoid"),
        ("feedback", "", "unanswerable"),
    ]
    assert both.questions[1].quotes[0].text == "Descale the boiler every six months."
    assert len(both.dropped) == 1
    assert both.counts["asked"] == 4 == len(both.questions) + len(both.dropped)
    assert both.counts["feedback"] == {"accepted": 3, "kept": 2}
    file.write_text(json.dumps(rows[1]) + "\n")
    assert with_feedback(asked, file, CHUNKS, word_search(CHUNKS)).questions == asked.questions
