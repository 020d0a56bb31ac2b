"""From chunks to checked questions: choose, ask, filter, find again, answer, verify, count.

A question is kept when it is well-formed, grounded, no copy and no duplicate, when the retriever finds its own chunk
again, and when its answer stands on words of that chunk. Everything else is listed with its reason. Two styles: `small`
for models of a few hundred million parameters (one call: a sentence in, a question out, the answer is the text's own),
`full` for capable endpoints (two calls: question; then quotes, reasoning and final answer, all verified).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from data.loading.languages import main_language
from data.nouns import Chunk, Hit, ItemCache, MemoryCache, Progress, Question, Search
from data.questions.desk import Asked, Desk
from data.questions.filters import Duplicates, Fault, names
from data.questions.kinds import draw_kinds
from data.questions.options import QuestionOptions
from data.questions.results import Dropped, QuestionSet, Trace, question_set
from data.questions.selection import Candidate, choose
from data.questions.wording import flat, words
from data.teachers.protocol import Teacher
from raft_errors import BadInput

UNANSWERED_IN = 4  # hits in which an unanswerable question must find no answer, beside its own chunk

_ROWS_AT_ONCE = 1024  # of the questions compared with all earlier ones

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def generate_questions(
    chunks: Sequence[Chunk],
    teacher: Teacher,
    search: Search,
    *,
    options: QuestionOptions | None = None,
    embed: Embed | None = None,
    cache: ItemCache | None = None,
    progress: Progress | None = None,
    traced: bool = False,
) -> QuestionSet:
    """Asks the teacher for questions about the chunks and keeps those that survive every check.

    Args:
        chunks: of the whole corpus; those worth asking about are chosen.
        teacher: see `data.teachers.Teacher`.
        search: the retriever over the same chunks; called once, with all the questions.
        embed: texts -> [n, dim] L2-normalised; where given, questions that mean the same are dropped as well.
        cache: replies are kept in it, so that a killed or repeated run pays for nothing twice.
        traced: whether prompts and replies are kept in the result (`traces`), for people to read.

    Returns:
        Questions in asking order with `kind`, `difficulty` (rank of the own chunk), one or more verbatim quotes, and
        `counts`: asked = kept + dropped by reason, `chunks`, `repaired` by what, `replies` {asked, cached, failed}, and
        where the endpoint counts them `tokens` {prompt, completion} of all replies used, paid now or before.

    Raises:
        BadInput: no chunk holds a sentence to ask about, or a template is wrong.
        BudgetReached, TeacherUnavailable: what was answered is in the cache; run again to go on.
    """
    options = options or QuestionOptions()
    cache = cache if cache is not None else MemoryCache()
    candidates = candidates_for(chunks, search, options, cache)
    desk = Desk(options, chunks, teacher, cache, progress, traced=traced)
    return asked_and_checked(candidates, desk, chunks, search, embed)


def candidates_for(
    chunks: Sequence[Chunk], search: Search, options: QuestionOptions, cache: ItemCache
) -> list[Candidate]:
    """What the teacher is to be asked about, in asking order.

    Raises:
        BadInput: no chunk holds a sentence to ask about.
    """
    candidates = choose(
        chunks,
        max_questions=options.max_questions,
        questions_per_chunk=options.questions_per_chunk,
        seed=options.seed,
        shaped=options.style == "small",
        cache=cache,
    )
    if not candidates:
        raise BadInput(
            f"none of {len(chunks)} chunks holds a whole sentence that a question can be asked about",
            expected="prose, in sentences that end with a full stop",
            do="add documents, or import questions of your own" + _other_teacher(chunks, options),
        )
    if options.style == "full":
        candidates = draw_kinds(candidates, options.kinds, {c.id: c for c in chunks}, search, seed=options.seed)
    return candidates


def asked_and_checked(
    candidates: list[Candidate], desk: Desk, chunks: Sequence[Chunk], search: Search, embed: Embed | None
) -> QuestionSet:
    """Asks about each candidate and keeps what survives every check; with traces where the desk keeps exchanges."""
    options, by_id = desk.options, {c.id: c for c in chunks}
    replies = desk.ask_questions(candidates)
    dropped: dict[int, Dropped] = {}
    asked: dict[int, Asked] = {}
    duplicates = Duplicates()
    for at, (candidate, reply) in enumerate(zip(candidates, replies, strict=True)):
        text, fault, mended = desk.first_checks(candidate, reply)
        if fault is None and (earlier := duplicates.first(text)):
            fault = Fault("duplicate", f"of {earlier!r}")
        if fault:
            dropped[at] = _drop(candidate, text, fault)
        else:
            asked[at] = Asked(candidate, text, mended=mended)
    if embed is not None and asked:
        for at, (earlier, likeness) in same_meaning(asked, embed, options.max_likeness).items():
            fault = Fault("duplicate", f"means the same as {earlier!r} ({likeness:.2f})")
            dropped[at] = _drop(asked[at].candidate, asked.pop(at).text, fault)
    for at, (rank, beside) in _found(asked, by_id, search, options.round_trip_k).items():
        if rank is None and options.round_trip_k and asked[at].candidate.kind != "unanswerable":
            fault = Fault("round_trip", f"the retriever does not find its chunk among the first {options.round_trip_k}")
            dropped[at] = _drop(asked[at].candidate, asked.pop(at).text, fault)
        else:
            asked[at] = dataclasses.replace(asked[at], rank=rank, beside=beside)
    kept: dict[int, Question] = {}
    repairs: Counter[str] = Counter()
    answers = desk.ask_answers(list(asked.values()))
    for (at, item), reply in zip(asked.items(), answers, strict=True):
        result = desk.check_answer(item, reply)
        if isinstance(result, Fault):
            dropped[at] = _drop(item.candidate, item.text, result)
        else:
            repairs.update(result.repairs)
            kept[at] = desk.question(item, result)
    tally = dataclasses.asdict(desk.tally)
    tokens = {"prompt": tally.pop("prompt_tokens"), "completion": tally.pop("completion_tokens")}
    verdicts: dict[int, Question | Dropped] = {**kept, **dropped}
    outcome = question_set(
        list(kept.values()),
        [dropped[at] for at in sorted(dropped)],
        chunks=len(chunks),
        kinds=dict(sorted(Counter(q.kind for q in kept.values()).items())),
        repaired=dict(sorted(repairs.items())),
        replies=tally,
        **({"tokens": tokens} if any(tokens.values()) else {}),
    )
    traces = [Trace(c.chunk, desk.exchanges(c), verdicts[at]) for at, c in enumerate(candidates)]
    return dataclasses.replace(outcome, traces=tuple(traces))


def _other_teacher(chunks: Sequence[Chunk], options: QuestionOptions) -> str:
    if options.style != "small" or main_language([c.text for c in chunks]) == "en":
        return ""
    return "; the small style takes apart English sentences alone: set questions.teacher to openai for other languages"


def _drop(candidate: Candidate, text: str, fault: Fault) -> Dropped:
    return Dropped(candidate.chunk.id, text[:300], fault.reason, fault.detail[:300])


def same_meaning(asked: dict[int, Asked], embed: Embed, least: float) -> dict[int, tuple[str, float]]:
    """For each question that an earlier kept one means as well: that one and their cosine.

    Questions that differ in a number, a quoted name, an identifier or a word with a capital are never the same.
    """
    places = list(asked)
    vectors = embed([asked[at].text for at in places])
    found: dict[int, tuple[str, float]] = {}
    dropped: set[int] = set()
    for row, near in _alike(vectors, least):
        at = places[row]
        mine = _named(asked[at].text)
        twin = next((k for k in near if k not in dropped and _named(asked[places[k]].text) == mine), None)
        if twin is not None:
            dropped.add(row)
            found[at] = asked[places[twin]].text, float(vectors[twin] @ vectors[row])
    return found


def _alike(vectors: npt.NDArray[np.float32], least: float) -> Iterator[tuple[int, list[int]]]:
    """(row, the earlier rows whose cosine with it is `least` or more), for the rows that have any, in order."""
    for begin in range(0, len(vectors), _ROWS_AT_ONCE):
        block = vectors[begin : begin + _ROWS_AT_ONCE]
        # a product of matrices rounds by shape: what comes near is taken again, in a way that does not
        rows, earlier = np.nonzero(block @ vectors[: begin + len(block)].T >= least - 1e-4)
        pairs = [(begin + int(r), int(k)) for r, k in zip(rows, earlier, strict=True) if k < begin + r]
        near = [(r, k) for r, k in pairs if np.dot(vectors[k].astype(np.float64), vectors[r]) >= least]
        for row, group in itertools.groupby(near, key=lambda pair: pair[0]):
            yield row, [k for _, k in group]


def _named(question: str) -> frozenset[str]:
    """What must be equal for two questions to mean the same."""
    return names(question) | {word.lower() for word in words(question)[1:] if word[:1].isupper()}


def _found(
    asked: dict[int, Asked], chunks: Mapping[str, Chunk], search: Search, depth: int
) -> dict[int, tuple[int | None, tuple[Chunk, ...]]]:
    """For each question the rank (1-based) at which it finds one of its chunks or a chunk with the same sentence, None
    if it does not within `depth`; and the first other hits."""
    least = UNANSWERED_IN if any(item.candidate.kind == "unanswerable" for item in asked.values()) else 0
    if not asked or not max(depth, least):
        return dict.fromkeys(asked, (None, ()))
    hits_of: list[list[Hit]] = search([item.text for item in asked.values()], max(depth, least))
    found: dict[int, tuple[int | None, tuple[Chunk, ...]]] = {}
    for (at, item), hits in zip(asked.items(), hits_of, strict=True):
        own, sentence = {c.id for c in item.candidate.chunks}, item.candidate.statement.text
        known = [(h.rank, chunks[h.chunk_id]) for h in hits if h.chunk_id in chunks]
        same = (rank for rank, c in known if rank <= depth and (c.id in own or sentence in flat(c.text)))  # in order
        others = [c for _, c in known if c.id not in own]
        found[at] = next(same, None), tuple(others[:UNANSWERED_IN])
    return found
