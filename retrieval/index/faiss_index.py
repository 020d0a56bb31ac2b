"""A FAISS index over unit vectors, with a manifest that is checked before FAISS parses a byte.

The saved vectors are the durable artefact; the index is a cache of them that can be rebuilt. Ids are chunk ids
(16 hex digits). Equal scores are ordered by chunk id, and a query gets the same hits alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.index.files import INDEX_FILE, file_sha256, read_manifest, write_index
from retrieval.index.kinds import Kind, make_index, resolve_kind

_LEVEL = 1e-6  # scores closer than this may change places by BLAS rounding
_SPARE = 8  # hits fetched beyond k, so that ties and rounding at the border are decided here and not by the heap
_BLOCK_BYTES = 64 << 20  # memory for rescoring


def build_index(
    vectors: np.ndarray,
    chunk_ids: Sequence[str],
    folder: Path,
    *,
    embedder: Mapping[str, Any],
    kind: Kind | Literal["auto"] = "auto",
    target_recall: float = 0.97,
) -> dict[str, Any]:
    """Builds and writes `index.faiss` and `index.json`, and returns the manifest.

    Args:
        vectors: float32 [n, dim], L2-normalised, finite.
        chunk_ids: n distinct ids of 16 hex digits (`data.nouns.digest`).
        folder: made if missing; files are replaced one by one, the manifest last.
        embedder: `EmbedderInfo.to_dict()`; its `digest` is what a reader's embedder must have.
        kind: `flat` is exact; `ivf_flat` and `ivf_sq8` are approximate, with nprobe chosen by measured recall. `auto`
            chooses flat up to 300,000 vectors.
        target_recall: recall@10 against exact search that nprobe must reach, for the IVF kinds.

    Raises:
        BadInput: shapes disagree, an id is malformed or occurs twice, a vector is not finite or not of unit length.
    """
    vectors = _as_matrix(vectors, "Vectors to index")
    ids = id_numbers(chunk_ids)
    if len(ids) != len(vectors):
        raise BadInput(f"{len(vectors)} vectors but {len(ids)} chunk ids", expected="as many ids", do="embed again")
    if not len(ids):
        raise BadInput("There is nothing to index", expected="at least one chunk", do="check the corpus")
    if len(np.unique(ids)) != len(ids):
        raise BadInput("A chunk id occurs twice", expected="distinct chunk ids", do="chunk the corpus again")
    _check_unit_length(vectors)
    new = make_index(vectors, ids, resolve_kind(kind, len(ids)), target_recall=target_recall)
    return write_index(new.index, folder, embedder=embedder, kind=new.kind, settings=new.settings)


def open_index(folder: Path, *, expect_embedder: str | None, mmap: bool = False) -> Index:
    """Opens what `build_index` wrote, after checking every byte against the manifest.

    Args:
        expect_embedder: digest of the embedder that will make the queries; None skips that check.
        mmap: leave the vectors on disk and let the system page them in.

    Raises:
        BadInput: a file is missing, truncated, altered or of another embedder.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    path = folder / INDEX_FILE
    made_by = str(manifest["embedder"].get("digest", ""))
    if expect_embedder is not None and made_by != expect_embedder:
        raise BadInput(
            f"The index in {folder} was built with embedder {made_by[:12] or 'unknown'}, "
            f"but the queries come from embedder {expect_embedder[:12]}",
            expected="the same embedding model for chunks and queries",
            do="build the index again with this embedder, or search with the one that built it",
        )
    if not path.is_file():
        raise BadInput(f"{path} is missing", expected="the index beside its manifest", do="build the index again")
    if path.stat().st_size != manifest["bytes"] or file_sha256(path) != manifest["sha256"]:
        raise BadInput(
            f"{path} is not the file its manifest describes: truncated, altered or swapped",
            expected=f"{manifest['bytes']} bytes with sha256 {manifest['sha256'][:12]}...",
            do="build the index again; the saved vectors are enough for that",
        )
    flags = (faiss.IO_FLAG_MMAP_IFC if manifest["kind"] == "flat" else faiss.IO_FLAG_MMAP) if mmap else 0
    index: Any = faiss.read_index(str(path), flags)
    if (
        index.ntotal != manifest["ntotal"]
        or index.d != manifest["dim"]
        or index.metric_type != faiss.METRIC_INNER_PRODUCT
    ):
        raise BadInput(f"{path} is not the index that its manifest describes", do="build the index again")
    return Index(index, manifest)


@dataclass(frozen=True)
class _Rows:
    """The parts of a flat index that rescoring needs: vectors [n, dim] (a view) and ids [n]."""

    vectors: np.ndarray
    ids: np.ndarray


class Index:
    """An opened index. `manifest` is what `index.json` holds."""

    def __init__(self, index: Any, manifest: Mapping[str, Any]) -> None:
        self.manifest = dict(manifest)
        self._index = index
        self._rows: _Rows | None = None
        if manifest["kind"] == "flat":
            inner: Any = faiss.downcast_index(index.index)
            view = faiss.rev_swig_ptr(inner.get_xb(), inner.ntotal * inner.d).reshape(inner.ntotal, inner.d)
            self._rows = _Rows(view, faiss.vector_to_array(index.id_map).copy())
        elif "nprobe" in manifest["settings"]:
            faiss.ParameterSpace().set_index_parameter(index, "nprobe", manifest["settings"]["nprobe"])

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def embedder_digest(self) -> str:
        """Of the model that made the vectors."""
        return str(self.manifest["embedder"].get("digest", ""))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._index.d)

    @property
    def chunk_ids(self) -> list[str]:
        """All chunk ids, sorted."""
        if self._rows is not None:
            numbers = self._rows.ids
        else:
            lists = self._index.invlists
            parts = [
                faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
                for i in range(lists.nlist)
                if lists.list_size(i)
            ]
            numbers = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return [id_text(number) for number in np.sort(numbers)]

    def search(self, vectors: np.ndarray, k: int, *, allowed: Sequence[str] | None = None) -> list[list[Hit]]:
        """The k nearest chunks of each query, best first; fewer where the index holds fewer.

        Args:
            vectors: float32 [queries, dim], L2-normalised. Many at once are much faster than one by one.
            k: at least 1; cut to the number of chunks in the index.
            allowed: only these chunk ids may be found (a metadata filter, already resolved).

        Raises:
            BadInput: k below 1, another dimension, or a vector that is not finite.
        """
        if k < 1:
            raise BadInput(f"k is {k}", expected="at least 1", do="ask for one hit or more")
        vectors = _as_matrix(vectors, "Query vectors", dim=self.dim)
        selector, holds = None, len(self)
        if allowed is not None:
            numbers = np.unique(id_numbers(allowed))
            holds = min(holds, len(numbers))
            if self._rows is not None:
                numbers = np.flatnonzero(np.isin(self._rows.ids, numbers)).astype(np.int64)
                holds = len(numbers)
            selector = faiss.IDSelectorBatch(numbers)
        k = min(k, holds)
        if not len(vectors) or k < 1:
            return [[] for _ in vectors]
        fetch = min(holds, k + _SPARE)
        block = max(1, _BLOCK_BYTES // (8 * fetch * self.dim))
        hits: list[list[Hit]] = []
        for begin in range(0, len(vectors), block):
            hits += self._search_block(vectors[begin : begin + block], k, fetch, holds, selector)
        return hits

    def _search_block(self, vectors: np.ndarray, k: int, fetch: int, holds: int, selector: Any) -> list[list[Hit]]:
        library: Any = faiss  # its stubs know neither selectors nor nprobe
        if self._rows is None:
            params = library.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe) if selector else None
            scores, ids = self._index.search(vectors, fetch, params=params)
            return [_rank(i[i >= 0], np.round(s[i >= 0].astype(np.float64), 6), k) for s, i in zip(scores, ids)]
        params = library.SearchParameters(sel=selector) if selector else None
        _, places = faiss.downcast_index(self._index.index).search(vectors, fetch, params=params)
        # BLAS rounds by batch shape; float64 sums row by row do not, so that equal vectors tie exactly.
        near = self._rows.vectors[places].astype(np.float64)
        scores = (near * vectors[:, None, :].astype(np.float64)).sum(axis=2)
        hits = [_rank(self._rows.ids[p], s, k) for p, s in zip(places, scores)]
        if fetch < holds:  # where the k-th ties with the last hit fetched, more may tie: look further
            level = np.partition(scores, fetch - k, axis=1)[:, fetch - k] - scores.min(axis=1) < _LEVEL
            again = np.flatnonzero(level)
            if len(again):
                wider = self._search_block(vectors[again], k, min(holds, fetch * 4), holds, selector)
                for place, better in zip(again, wider):
                    hits[place] = better
        return hits


def _rank(ids: np.ndarray, scores: np.ndarray, k: int) -> list[Hit]:
    order = np.lexsort((ids, -scores))[:k]
    best = zip(ids[order].tolist(), scores[order].tolist())  # plain numbers are formatted several times as fast
    return [Hit(f"{number:016x}", round(score, 6), rank) for rank, (number, score) in enumerate(best, 1)]


def id_numbers(chunk_ids: Sequence[str]) -> np.ndarray:
    """int64 [n] FAISS ids of chunk ids. Raises BadInput for an id that is not 16 hex digits below 2**63."""
    try:
        numbers = [int(text, 16) for text in chunk_ids]
    except ValueError as error:
        raise BadInput(
            f"A chunk id is malformed ({error})", expected="16 hex digits", do="chunk the corpus again"
        ) from error
    for text, number in zip(chunk_ids, numbers):
        if id_text(number) != text or number >= 2**63:
            raise BadInput(
                f"Chunk id {text!r} is malformed", expected="16 hex digits, below 2**63", do="use data.nouns.digest"
            )
    return np.asarray(numbers, dtype=np.int64)


def id_text(number: int) -> str:
    """The chunk id of a FAISS id."""
    return f"{int(number):016x}"


def _check_unit_length(vectors: np.ndarray) -> None:
    for begin in range(0, len(vectors), 65536):
        off = np.abs(np.linalg.norm(vectors[begin : begin + 65536], axis=1) - 1)
        if off.max() > 1e-3:
            row = begin + int(off.argmax())
            raise BadInput(f"Vectors to index: row {row} is not of unit length", do="normalise before indexing")


def _as_matrix(vectors: np.ndarray, what: str, dim: int | None = None) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        expected = f"float32 [n, {dim or 'dim'}]"
        raise BadInput(
            f"{what} have shape {vectors.shape}", expected=expected, do="use the embedder that made the index"
        )
    for begin in range(0, len(vectors), 65536):
        finite = np.isfinite(vectors[begin : begin + 65536]).all(axis=1)
        if not finite.all():
            raise BadInput(
                f"{what}: row {begin + int((~finite).argmax())} is not finite (NaN or infinite)",
                expected="finite numbers",
                do="embed again; with float32 if it happens again",
            )
    return vectors
