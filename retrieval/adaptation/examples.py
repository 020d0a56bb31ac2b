"""What a retriever is trained on: questions of the training side, their passages, and passages that only look right.

Nothing of the held-out sides comes in: no question of theirs, none that repeats one of theirs in other words, no
passage of theirs, neither as an answer nor as a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.nouns import Chunk, Question, Search
from retrieval.mining import mine_distractors
from retrieval.overlap import folded
from retrieval.search import passage_text

Embed = Callable[[Sequence[str]], np.ndarray]
"""Questions to unit vectors [n, dim]."""


@dataclass(frozen=True)
class Example:
    """A question, the passage that answers it, and passages that do not, hardest first."""

    question: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class Examples:
    """Attributes:
    examples: one for each question that is trained on, in the order of the questions.
    repeated: ids of training questions left out because a held-out question says the same -> id of that question.
    without_negatives: how many questions had no passage that is near and wrong.
    """

    examples: list[Example]
    repeated: dict[str, str] = field(default_factory=dict)
    without_negatives: int = 0


def training_examples(
    questions: Sequence[Question],
    held_out: Sequence[Question],
    chunks: Sequence[Chunk],
    side_of: Mapping[str, str],
    search: Search,
    embed: Embed,
    *,
    negatives: int,
    max_likeness: float,
    seed: int,
) -> Examples:
    """The examples of the training questions.

    Args:
        questions: of the training side.
        held_out: of the other sides; a training question that repeats one of these is left out.
        chunks: the whole corpus.
        side_of: chunk id -> its side; only chunks of the side `train` become passages of an example.
        search: the production retriever's, whose first hits are the hard negatives.
        negatives: for each question, at most.
        max_likeness: cosine from which two questions mean the same.
        seed: of the negatives that are drawn at random where the search offers too few.
    """
    training_chunks = {chunk.id: chunk for chunk in chunks if side_of[chunk.id] == "train"}
    repeated = repeats(questions, held_out, embed, max_likeness)
    rest = [q for q in questions if q.id not in repeated and any(c in training_chunks for c in q.gold_chunk_ids)]
    mined = mine_distractors(rest, list(training_chunks.values()), search, count=negatives, seed=seed)
    examples = []
    for question in rest:
        gold = next(c for c in question.gold_chunk_ids if c in training_chunks)
        wrong = tuple(passage_text(training_chunks[one.chunk_id]) for one in mined[question.id])
        examples.append(Example(question.question, passage_text(training_chunks[gold]), wrong))
    return Examples(examples, repeated, sum(not example.negatives for example in examples))


def repeats(
    questions: Sequence[Question], held_out: Sequence[Question], embed: Embed, max_likeness: float
) -> dict[str, str]:
    """Ids of the questions that say what a held-out one says -> id of that one.

    Two questions say the same if they hold the same words, in any order and form of writing, or if their vectors are
    as near as `max_likeness`.
    """
    if not questions or not held_out:
        return {}
    words = {" ".join(sorted(folded(q.question).split())): q.id for q in reversed(held_out)}
    same = {q.id: words[key] for q in questions if (key := " ".join(sorted(folded(q.question).split()))) in words}
    own, other = (np.asarray(embed([q.question for q in some])) for some in (questions, held_out))
    for begin in range(0, len(own), 1024):  # a block of the products at a time bounds the memory
        likeness = own[begin : begin + 1024] @ other.T
        for row, (value, place) in enumerate(zip(likeness.max(axis=1), likeness.argmax(axis=1))):
            if value >= max_likeness:
                same.setdefault(questions[begin + row].id, held_out[int(place)].id)
    return same
