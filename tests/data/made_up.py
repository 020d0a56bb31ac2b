"""Small made-up corpora, questions and mined neighbours, for the tests of records and what follows from them."""

from types import SimpleNamespace

from data.nouns import Chunk, Question, Quote, digest, text_sha256
from data.records.compose import RecordOptions, compose_records

WORDS = [
    a + b for a in ("river", "stone", "lamp", "field", "copper") for b in ("side", "ing", "man", "er", "wood", "let")
]


def words(text: str) -> int:
    return len(text.split())


def make_chunk(document: int, ordinal: int, text: str, *, start: int | None = None) -> Chunk:
    document_id = digest("document", str(document))
    start = ordinal * 1000 if start is None else start
    return Chunk(
        id=digest(document_id, str(ordinal), text),
        document_id=document_id,
        ordinal=ordinal,
        text=text,
        start=start,
        end=start + len(text),
        tokens=len(text.split()),
        sha256=text_sha256(text),
        source=f"manual/{document}.md",
        title=f"Manual {document}",
    )


def chunk_of(title: str, text: str, ordinal: int = 0) -> Chunk:
    document = digest(title)
    start = 1000 * ordinal
    return Chunk(
        id=digest(document, str(ordinal), text), document_id=document, ordinal=ordinal, text=text, start=start,
        end=start + len(text), tokens=9, sha256=text_sha256(text), source=f"{title}.md", title=title,
    )  # fmt: skip


def make_question(gold: list[Chunk], answer: str, text: str | None = None, **changes) -> Question:
    ids = tuple(c.id for c in gold)
    text = text or f"What about {answer} in {gold[0].title} {gold[0].ordinal}?"
    values = {
        "id": digest(text, *ids),
        "question": text,
        "answer": answer,
        "gold_chunk_ids": ids,
        "document_ids": tuple(dict.fromkeys(c.document_id for c in gold)),
        "quotes": tuple(Quote(c.id, c.text[: max(1, len(c.text) // 2)].strip()) for c in gold),
        "reasoning": "It is said so.",
    }
    return Question(**{**values, **changes})


def corpus(documents: int, per_document: int = 3, length: int = 12) -> list[Chunk]:
    chunks = []
    for d in range(documents):
        for o in range(per_document):
            body = " ".join(WORDS[(d * 7 + o * 11 + i * (d + 3)) % len(WORDS)] for i in range(length))
            chunks.append(make_chunk(d, o, f"Part {d}-{o} speaks of key{d}x{o}: {body}."))
    return chunks


def ask_all(chunks: list[Chunk]) -> list[Question]:
    return [make_question([c], c.text.split()[4].rstrip(":")) for c in chunks]


def mine(questions, chunks, count=8):
    """Neighbours in the list, best first, the oracle among them: composing must cope with that."""
    place = {c.id: i for i, c in enumerate(chunks)}
    distractors = {}
    for q in questions:
        at = place.get(q.gold_chunk_ids[0], 0)
        distractors[q.id] = [
            SimpleNamespace(chunk_id=chunks[(at + j) % len(chunks)].id, rank=j + 1, score=1 / (j + 1), mined_by="dense")
            for j in range(count)
        ]
    return distractors


def compose(chunks, questions, **kw):
    options = kw.pop("options", RecordOptions(max_tokens=400))
    return compose_records(
        questions, chunks, kw.pop("mined", mine(questions, chunks)), options=options, count_tokens=words, **kw
    )


def everything(result):
    return [*result.train, *result.validation, *result.test]
