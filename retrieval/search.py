"""The retriever: queries in, ranked chunks with resolvable citations out.

One object serves question checks, distractor mining, evaluation and the `raft search` command, so that a model is
trained with the very retriever that will serve it. It holds chunks and an index and loads neither.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data.nouns import Chunk, Hit, ItemCache
from data.text.source_names import names_of
from raft_errors import BadInput
from retrieval.fusion import reciprocal_rank_fusion
from retrieval.index.faiss_index import Index
from retrieval.mode import DEFAULT_MODE, MODES, Mode
from retrieval.rerank import reordered
from retrieval.stores.vector_store import FIELDS, VectorStore, Where, check_where, matches, payload

if TYPE_CHECKING:
    from retrieval.lexical import LexicalIndex

FUSION_DEPTH = 100  # hits taken from each side before fusion
RERANK_DEPTH = 20  # hits that a cross-encoder reads: tens of pairs a second on a CPU


class QueryEncoder(Protocol):
    """What the retriever needs from an embedder."""

    @property
    def info(self) -> Any: ...

    def encode(self, texts: Sequence[str], *, cache: ItemCache | None = None, kind: Any = "passage") -> np.ndarray: ...


class PairScorer(Protocol):
    """What the retriever needs from a cross-encoder."""

    def score(self, pairs: Sequence[tuple[str, str]], *, cache: ItemCache | None = None) -> list[float]: ...


@dataclass(frozen=True)
class Citation:
    """Where a hit stands: enough to open the source at the place.

    Attributes:
        source: URI of the document; `page` is 1-based or None.
        start, end: character span in the document's text.
        score: from the search; scales differ between modes.
    """

    chunk_id: str
    source: str
    title: str
    page: int | None
    start: int
    end: int
    heading_path: tuple[str, ...]
    score: float
    rank: int
    text: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def passage_text(chunk: Chunk) -> str:
    """What is embedded and indexed for a chunk: its title before its text, unless the title is its first line."""
    title = chunk.title.strip()
    first_line = chunk.text.lstrip().split("\n", 1)[0].strip(" #=*")
    return chunk.text if not title or first_line == title else f"{title}. {chunk.text}"


class Retriever:
    """Searches one corpus. `retriever.search` is a `data.nouns.Search`.

    Args:
        index: the dense index, or any vector store; None in `lexical` mode.
        embedder: makes the query vectors; it must be the one that the index was built with; None in `lexical` mode.
        chunks: exactly the chunks of the index.
        mode: `dense`, `lexical` (BM25) or `hybrid` (both, fused by rank).
        language: of stemmer and stop words in the modes that use BM25; `auto` = that of the corpus.
        columns: document id -> the columns of its row (JSON Lines, CSV), for filters on them.
        where: filter for every search, in addition to that of the search itself.
        reranker: puts the first `rerank_depth` hits of every search in a new order.
        query_cache: keeps query vectors, and the scores of pairs, between runs.
        lexical_share: weight of BM25 in `hybrid` mode, 0 to 1; that of the vectors is the rest.

    Raises:
        BadInput: index, chunks and embedder do not belong together.
    """

    def __init__(
        self,
        index: Index | VectorStore | None,
        embedder: QueryEncoder | None,
        chunks: Sequence[Chunk],
        *,
        mode: Mode = DEFAULT_MODE,
        language: str = "auto",
        columns: Mapping[str, Mapping[str, Any]] | None = None,
        where: Where | None = None,
        reranker: PairScorer | None = None,
        rerank_depth: int = RERANK_DEPTH,
        query_cache: ItemCache | None = None,
        lexical_share: float = 0.5,
    ) -> None:
        if mode not in MODES:
            raise BadInput(f"Retrieval mode {mode!r} is unknown", expected="dense, lexical or hybrid", do="choose one")
        self.mode = mode
        self.chunks = {chunk.id: chunk for chunk in chunks}
        self._index, self._embedder, self._cache = index, embedder, query_cache
        self.reranker, self.rerank_depth, self.lexical_share = reranker, rerank_depth, lexical_share
        self._columns = columns or {}
        self._names = (*FIELDS, *sorted({name for row in self._columns.values() for name in row} - set(FIELDS)))
        check_where(where, self._names)
        self._where = where
        if where and not all((self._exact(None) or {}).values()):
            raise BadInput(
                f"No passage of the corpus passes the filter {dict(where)}",
                expected="values that occur in it; `*` stands for anything",
                do="correct the filter",
            )
        if mode != "lexical":
            _check_pair(index, embedder, self.chunks)
        self._lexical: LexicalIndex | None = None
        if mode != "dense":
            from retrieval.lexical import LexicalIndex  # its libraries take a second to import

            ordered = list(self.chunks.values())
            self._lexical = LexicalIndex([c.id for c in ordered], [passage_text(c) for c in ordered], language=language)

    def search(self, queries: Sequence[str], k: int, *, where: Where | None = None) -> list[list[Hit]]:
        """At most k hits for each query, best first. Send many queries at once.

        Args:
            where: filter, e.g. `{"source": ["a.md", "guides/*"], "page": 3}`; fields as in `vector_store.FIELDS` or
                columns of the documents' rows, and a `*` in a text stands for anything.

        Raises:
            BadInput: an empty query, k below 1, or an unknown field in the filter.
        """
        if isinstance(queries, str):  # which is a list of its letters
            raise BadInput("The queries are one text", expected="a list of texts", do="ask for [query]")
        for place, query in enumerate(queries):
            if not query.strip():
                raise BadInput(f"Query {place + 1} of {len(queries)} is empty", expected="words", do="ask something")
        if k < 1:
            raise BadInput(f"k is {k}", expected="at least 1", do="ask for one hit or more")
        check_where(where, self._names)
        exact = self._exact(where)
        if exact is not None and not all(exact.values()):
            return [[] for _ in queries]
        if self.reranker is None:
            return self._first(queries, k, exact)
        rankings = self._first(queries, max(k, self.rerank_depth), exact)
        return [hits[:k] for hits in self._reranked(queries, rankings)]

    @property
    def fields(self) -> tuple[str, ...]:
        """What a filter may name."""
        return tuple(self._names)

    def passes(self, chunk_id: str, where: Where | None) -> bool:
        """Whether a search with a filter may find a chunk.

        Raises:
            BadInput: the filter has an unknown field.
        """
        check_where(where, self._names)
        exact, chunk = self._exact(where), self.chunks.get(chunk_id)
        return chunk is not None and (exact is None or matches(payload(chunk), exact))

    def in_mode(self, mode: Mode, *, reranked: bool = True, lexical_share: float | None = None) -> Retriever:
        """The same corpus, searched in another mode or with another weight; a hybrid one has the parts for all."""
        if (mode != "lexical" and self._index is None) or (mode != "dense" and self._lexical is None):
            raise BadInput(f"A {self.mode} retriever cannot search in mode {mode}", do="open it in mode hybrid")
        other = copy.copy(self)
        other.mode = mode
        other.reranker = self.reranker if reranked else None
        other.lexical_share = self.lexical_share if lexical_share is None else lexical_share
        return other

    def with_embedder(self, index: Index | VectorStore, embedder: QueryEncoder) -> Retriever:
        """The same corpus, searched with other vectors.

        Raises:
            BadInput: the index holds the vectors of another embedder, or other chunks.
        """
        _check_pair(index, embedder, self.chunks)
        other = copy.copy(self)
        other._index, other._embedder = index, embedder
        return other

    def with_reranker(self, reranker: PairScorer | None) -> Retriever:
        """The same search, its first hits ordered by another cross-encoder."""
        other = copy.copy(self)
        other.reranker = reranker
        return other

    @property
    def embedder(self) -> QueryEncoder | None:
        """What makes the query vectors; None if it searches words alone."""
        return self._embedder

    @property
    def embed(self) -> Callable[[Sequence[str]], np.ndarray] | None:
        """Texts -> [n, dim] query vectors, as the search uses them; None if it searches words alone."""
        if self._embedder is None:
            return None
        return functools.partial(self._embedder.encode, kind="query", cache=self._cache)

    def cite(self, hit: Hit) -> Citation:
        """The citation of a hit of this retriever."""
        chunk = self.chunks.get(hit.chunk_id)
        if chunk is None:
            raise BadInput(f"Chunk {hit.chunk_id} is not in this corpus", do="cite hits of the same retriever")
        return Citation(
            chunk_id=chunk.id,
            source=chunk.source,
            title=chunk.title,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            heading_path=chunk.heading_path,
            score=hit.score,
            rank=hit.rank,
            text=chunk.text,
        )

    def _first(self, queries: Sequence[str], k: int, where: Where | None) -> list[list[Hit]]:
        if self.mode == "dense":
            return self._dense(queries, k, where)
        if self.mode == "lexical":
            return self._words(queries, k, where)
        depth = max(k, FUSION_DEPTH)
        both = zip(self._words(queries, depth, where), self._dense(queries, depth, where))
        weights = (2 * self.lexical_share, 2 - 2 * self.lexical_share)  # equal ones are 1, as without weights
        return [reciprocal_rank_fusion(pair, k, weights=weights) for pair in both]

    def _reranked(self, queries: Sequence[str], rankings: Sequence[list[Hit]]) -> list[list[Hit]]:
        assert self.reranker is not None
        depth = self.rerank_depth
        pairs = [
            (query, passage_text(self.chunks[hit.chunk_id]))
            for query, hits in zip(queries, rankings, strict=True)
            for hit in hits[:depth]
        ]
        scores = iter(self.reranker.score(pairs, cache=self._cache))
        return [reordered(hits[:depth], [next(scores) for _ in hits[:depth]], hits[depth:]) for hits in rankings]

    def _exact(self, where: Where | None) -> dict[str, Any] | None:
        """The retriever's own filter and that of a search as one of plain values, which every store understands.

        A filter on a column becomes one on the documents that pass it, so that stores need not know columns.
        """
        filters = [one_filter for one_filter in (self._where, where) if one_filter]
        if not filters:
            return None
        exact: dict[str, Any] = {}
        for name in {name: None for one_filter in filters for name in one_filter}:
            allowed = [one_filter[name] for one_filter in filters if name in one_filter]
            field = name if name in FIELDS else "document_id"
            values = exact[field] if field in exact else dict.fromkeys(getattr(c, field) for c in self.chunks.values())
            if name in FIELDS:
                known = {v: names_of(v) if field == "source" else (v,) for v in values}
                exact[field] = [v for v in values if all(any(_allows(a, n) for n in known[v]) for a in allowed)]
            else:
                exact[field] = [value for value in values if self._column_allows(value, name, allowed)]
        return exact

    def _column_allows(self, document_id: str, name: str, allowed: Sequence[Any]) -> bool:
        row = self._columns.get(document_id, {})
        return name in row and all(_allows(_as_texts(one), _as_texts(row[name])) for one in allowed)

    def _dense(self, queries: Sequence[str], k: int, where: Where | None) -> list[list[Hit]]:
        if not queries:
            return []
        assert self._index is not None
        assert self._embedder is not None
        vectors = self._embedder.encode(queries, kind="query", cache=self._cache)
        if isinstance(self._index, Index):
            return self._index.search(vectors, k, allowed=self._allowed(where))
        return self._index.search(vectors, k, where=where)

    def _words(self, queries: Sequence[str], k: int, where: Where | None) -> list[list[Hit]]:
        assert self._lexical is not None
        return self._lexical.search(queries, k, allowed=self._allowed(where))

    def _allowed(self, where: Where | None) -> list[str] | None:
        if where is None:
            return None
        sets = {field: frozenset(values) for field, values in where.items()}  # a pattern may stand for many documents
        return [c.id for c in self.chunks.values() if matches(payload(c), sets)]


def _allows(allowed: Any, value: Any) -> bool:
    """Whether a value passes one field of a filter: a value, a pattern with `*`, or a list of them."""
    if isinstance(allowed, (list, tuple, set, frozenset)):
        return any(_allows(one, value) for one in allowed)
    if isinstance(allowed, str) and isinstance(value, str) and "*" in allowed:
        return fnmatchcase(value, allowed.replace("[", "[[]").replace("?", "[?]"))
    return bool(allowed == value)


def _as_texts(value: Any) -> Any:
    """Values of a column as texts, since CSV has nothing else: 2020 and "2020" are the same, and true is `true`."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_texts(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_pair(index: Index | VectorStore | None, embedder: QueryEncoder | None, chunks: dict[str, Chunk]) -> None:
    if index is None or embedder is None:
        raise BadInput("Dense and hybrid search need an index and an embedder", do="pass both, or use mode 'lexical'")
    made_by = index.embedder_digest
    if made_by != embedder.info.digest:
        raise BadInput(
            f"The index was built with embedder {made_by[:12]}, the queries come from {embedder.info.digest[:12]}",
            expected="one embedding model for chunks and queries",
            do="build the index again, or load the embedder that it was built with",
        )
    index_ids = index.chunk_ids
    if index_ids != sorted(chunks):
        lacking, other = len(chunks.keys() - set(index_ids)), len(set(index_ids) - chunks.keys())
        raise BadInput(
            f"The index ({len(index_ids)} vectors) and the chunks ({len(chunks)}) are not of the same corpus: it lacks "
            f"{lacking} of them and has {other} others",
            expected="exactly the chunks that were indexed",
            do="build the index again from these chunks; a vector store: bring it up to date with them",
        )
