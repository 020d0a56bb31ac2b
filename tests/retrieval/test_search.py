"""Dense, lexical and hybrid search answer with hits that resolve to source, page and span."""

import dataclasses
import subprocess
import sys

import pytest
from retrieval_samples import make_chunk

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.embedding.embedder import Embedder
from retrieval.fusion import reciprocal_rank_fusion
from retrieval.index.faiss_index import build_index, open_index
from retrieval.lexical import LexicalIndex
from retrieval.search import Retriever, passage_text
from retrieval.stores.faiss_store import FaissStore


@pytest.fixture(scope="module")
def embedder(tiny_model):
    return Embedder.load(tiny_model, device="cpu", precision="float32")


@pytest.fixture
def index(embedder, town, tmp_path):
    vectors = embedder.encode([passage_text(c) for c in town])
    build_index(vectors, [c.id for c in town], tmp_path, embedder=embedder.info.to_dict())
    return open_index(tmp_path, expect_embedder=embedder.info.digest)


def ids(hits):
    return [h.chunk_id for h in hits]


def test_a_filter_that_many_documents_pass_is_no_comparison_of_all_with_all():
    compared = []

    class Source(str):
        def __eq__(self, other):
            compared.append(other)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    documents = [make_chunk("a bridge", document=f"hr/{number}") for number in range(200)]
    chunks = [dataclasses.replace(chunk, source=Source(chunk.source)) for chunk in documents]
    retriever = Retriever(None, None, chunks, mode="lexical")
    (hits,) = retriever.search(["bridge"], 3, where={"source": "hr/*"})
    assert len(hits) == 3
    assert len(compared) < 10 * len(chunks)


def test_a_passage_finds_itself_and_is_cited(embedder, index, town):
    retriever = Retriever(index, embedder, town, mode="dense")
    hits = retriever.search([passage_text(c) for c in town], 3)
    assert [ranking[0].chunk_id for ranking in hits] == [c.id for c in town]
    citation = retriever.cite(hits[2][0])
    assert (citation.source, citation.title, citation.page) == ("lighthouse.md", "Lighthouse", 3)
    assert citation.end - citation.start == len(citation.text)
    assert citation.heading_path == ("Guide", "lighthouse")
    assert citation.score == pytest.approx(1, abs=1e-5)
    assert citation.to_dict()["rank"] == 1


def test_the_title_is_part_of_what_is_searched_but_not_twice():
    assert passage_text(make_chunk("It is red.", title="Tower")) == "Tower. It is red."
    assert passage_text(make_chunk("# Tower\nIt is red.", title="Tower")) == "# Tower\nIt is red."
    assert passage_text(make_chunk("Tower bells ring.", title="Tower")) == "Tower. Tower bells ring."
    assert passage_text(make_chunk("It is red.")) == "It is red."


def test_lexical_search_needs_neither_index_nor_embedder(town):
    retriever = Retriever(None, None, town, mode="lexical")
    (hits,) = retriever.search(["Who lights the lamps at the lighthouse?"], 5)
    assert hits[0].chunk_id == town[2].id


def test_hybrid_search_is_the_fusion_of_both(embedder, index, town):
    query = ["railway tunnel under the mountain"]
    dense, lexical, hybrid = (
        Retriever(index, embedder, town, mode=mode).search(query, 8)[0] for mode in ("dense", "lexical", "hybrid")
    )
    assert hybrid == reciprocal_rank_fusion([lexical, dense], 8)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_a_filter_holds_in_every_mode(embedder, index, town, mode):
    retriever = Retriever(index, embedder, town, mode=mode)
    (hits,) = retriever.search(["the bridge, the harbour and the sea"], 8, where={"source": "harbour.md"})
    assert set(ids(hits)) <= {town[6].id, town[7].id}
    assert hits
    with pytest.raises(BadInput, match="colour"):
        retriever.search(["bridge"], 3, where={"colour": "red"})


def test_a_filter_takes_patterns_and_adds_to_that_of_the_retriever(embedder, index, town):
    retriever = Retriever(index, embedder, town, where={"source": ["h*.md", "bridge.md"]})
    query = ["the bridge, the harbour and the sea"]
    (hits,) = retriever.search(query, 8)
    assert set(ids(hits)) == {town[0].id, town[1].id, town[6].id, town[7].id}
    (hits,) = retriever.search(query, 8, where={"source": "har*", "page": 7})
    assert ids(hits) == [town[6].id]
    assert retriever.search(query, 8, where={"source": "lighthouse.md"}) == [[]]
    with pytest.raises(BadInput, match="No passage"):
        Retriever(index, embedder, town, where={"source": "nowhere/*"})


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_vector_store_serves_as_well_as_an_index(embedder, index, town, tmp_path, mode):
    store = FaissStore(tmp_path / "store", embedder=embedder.info.to_dict())
    store.add(town, embedder.encode([passage_text(c) for c in town]))
    query, where = ["the bridge and the harbour"], {"page": [1, 7, 8]}
    by_store, by_index = (Retriever(source, embedder, town, mode=mode) for source in (store, index))
    assert by_store.search(query, 4) == by_index.search(query, 4)
    assert by_store.search(query, 4, where=where) == by_index.search(query, 4, where=where)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_a_filter_takes_columns_of_the_documents_rows(embedder, index, town, mode):
    by_source = {chunk.source: chunk.document_id for chunk in town}
    columns = {
        by_source["harbour.md"]: {"team": "port", "year": 2020, "open": True},
        by_source["bridge.md"]: {"team": "road", "year": "2020"},
        by_source["lighthouse.md"]: {"team": "port", "year": 2021, "open": False},
    }
    retriever = Retriever(index, embedder, town, mode=mode, columns=columns)
    query = ["the bridge, the harbour, the sea and the lighthouse"]

    def found(retriever=retriever, **where):
        return {retriever.chunks[hit.chunk_id].source for hit in retriever.search(query, 8, where=where)[0]}

    assert found(team="port") == {"harbour.md", "lighthouse.md"}
    assert found(year=2020) == found(year="2020") == {"harbour.md", "bridge.md"}
    assert found(team=["r*", "none"], year=[2020, 2021]) == {"bridge.md"}
    assert found(open=True) == {"harbour.md"}
    assert found(team="port", source="l*") == {"lighthouse.md"}
    assert found(team="port", document_id=by_source["bridge.md"]) == set()
    narrow = Retriever(index, embedder, town, mode=mode, columns=columns, where={"year": 2020})
    assert found(narrow, team="port") == {"harbour.md"}
    with pytest.raises(BadInput, match="open, team, year"):
        retriever.search(query, 8, where={"colour": "red"})


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_empty_queries_and_silly_k_are_bad_input(embedder, index, town, mode):
    retriever = Retriever(index, embedder, town, mode=mode)
    with pytest.raises(BadInput, match="Query 2 of 2"):
        retriever.search(["bridge", "  "], 3)
    with pytest.raises(BadInput, match="k is 0"):
        retriever.search(["bridge"], 0)
    assert retriever.search([], 3) == []


def test_parts_that_do_not_belong_together_are_refused(embedder, index, town, other_model):
    with pytest.raises(BadInput, match="corpus"):
        Retriever(index, embedder, town[:-1])
    with pytest.raises(BadInput, match="embedder"):
        Retriever(index, Embedder.load(other_model, device="cpu", precision="float32"), town)
    with pytest.raises(BadInput, match="need an index"):
        Retriever(None, embedder, town, mode="hybrid")
    with pytest.raises(BadInput, match="fuzzy"):
        Retriever(index, embedder, town, mode="fuzzy")
    with pytest.raises(BadInput, match="not in this corpus"):
        Retriever(index, embedder, town).cite(Hit("0" * 16, 1.0, 1))


def test_bm25_stems_words_and_drops_stop_words():
    index = LexicalIndex(["a", "b"], ["The windmills were grinding wheat.", "A castle on the hill."])
    rankings = index.search(["windmill grinds", "the of and", "submarine"], 5)
    assert [ids(hits) for hits in rankings] == [["a"], [], []]


def test_bm25_ties_go_by_id_and_k_is_cut_to_the_corpus():
    index = LexicalIndex(["c", "a", "b", "d"], ["red tower", "red tower", "red tower", "blue harbour"])
    (hits,) = index.search(["tower"], 2)
    assert ids(hits) == ["a", "b"]
    (hits,) = index.search(["tower"], 99)
    assert ids(hits) == ["a", "b", "c"]
    (hits,) = index.search(["tower"], 99, allowed=["b", "d"])
    assert ids(hits) == ["b"]


def test_bm25_takes_a_corpus_without_words():
    assert LexicalIndex(["a"], ["the and of"]).search(["tower"], 3) == [[]]


def test_bm25_refuses_repeated_ids_and_unknown_languages():
    with pytest.raises(BadInput, match="1 distinct"):
        LexicalIndex(["a", "a"], ["x", "y"])
    with pytest.raises(BadInput, match="klingon"):
        LexicalIndex(["a"], ["x"], language="klingon")


def test_weights_move_hybrid_search_from_one_side_to_the_other(embedder, index, town):
    query = ["railway tunnel under the mountain"]
    hybrid = Retriever(index, embedder, town, mode="hybrid")
    dense, lexical = (hybrid.in_mode(mode).search(query, 8)[0] for mode in ("dense", "lexical"))
    for share in (0.0, 0.3, 0.5, 1.0):
        (hits,) = Retriever(index, embedder, town, mode="hybrid", lexical_share=share).search(query, 8)
        assert hits == reciprocal_rank_fusion([lexical, dense], 8, weights=[2 * share, 2 - 2 * share])
        assert hits == hybrid.in_mode("hybrid", lexical_share=share).search(query, 8)[0]
    assert ids(hybrid.in_mode("hybrid", lexical_share=0.0).search(query, 8)[0]) == ids(dense)
    only_words = ids(hybrid.in_mode("hybrid", lexical_share=1.0).search(query, 8)[0])
    assert only_words[: len(lexical)] == ids(lexical)


def test_weighted_fusion_agrees_with_a_sum_by_hand():
    first, second = [Hit("a", 0.9, 1), Hit("b", 0.8, 2)], [Hit("b", 7.0, 1), Hit("c", 6.0, 2)]
    fused = reciprocal_rank_fusion([first, second], 3, weights=[1.8, 0.2])
    assert [(h.chunk_id, round(h.score, 6)) for h in fused] == [
        ("b", round(1.8 / 12 + 0.2 / 11, 6)),
        ("a", round(1.8 / 11, 6)),
        ("c", round(0.2 / 12, 6)),
    ]


def test_rank_fusion_agrees_with_a_sum_by_hand():
    first = [Hit("a", 9.0, 1), Hit("b", 8.0, 2)]
    second = [Hit("c", 0.5, 1), Hit("b", 0.4, 2), Hit("a", 0.3, 3)]
    fused = reciprocal_rank_fusion([first, second], 3)
    assert ids(fused) == ["a", "b", "c"]
    assert fused[0].score == pytest.approx(1 / 11 + 1 / 13)
    assert fused[1].score == pytest.approx(2 / 12)
    alike = [Hit("z", 1, 1)], [Hit("y", 1, 1)]
    assert ids(reciprocal_rank_fusion(alike, 2)) == ["z", "y"], "the first ranking goes first where sums are equal"
    assert ids(reciprocal_rank_fusion([[], *alike], 2)) == ["y", "z"], "and ids where it does not tell"


def test_one_high_rank_outdoes_two_middling_ones():
    first = [Hit(f"a{rank}", 1, rank) for rank in range(1, 80)]
    second = [Hit(f"b{rank}", 1, rank) for rank in range(1, 80)]
    first[60], second[60] = Hit("both", 1, 61), Hit("both", 1, 61)
    assert "both" not in ids(reciprocal_rank_fusion([first, second], 20))
    assert "both" in ids(reciprocal_rank_fusion([first, second], 20, constant=60))


@pytest.mark.parametrize(
    ("query", "answering"),
    [("年假有多少天？", 0), ("蓝色的胸牌", 1), ("ลาพักร้อนได้กี่วัน", 2), ("서울에 무엇이 있나?", 3), ("वाल्व कब बंद होता", 4)],
)
def test_bm25_finds_words_that_no_space_parts(query, answering):
    texts = ["员工每年享有十五天带薪年假。", "访客必须领取蓝色胸牌。", "พนักงานมีสิทธิลาพักร้อนปีละสิบวัน"]
    texts += ["노트북은 서울에 있다.", "वाल्व बंद होता है।"]
    index = LexicalIndex([str(i) for i in range(5)], texts)
    assert [hit.chunk_id for hit in index.search([query], 1)[0]] == [str(answering)]


def test_bm25_stems_in_the_language_of_the_corpus():
    texts = [
        "Die Kessel werden jeden Monat gereinigt und von der Werkstatt geprüft.",
        "Die Häuser der Stadt stehen am Fluss.",
    ]
    index = LexicalIndex(["a", "b"], texts)
    assert [h.chunk_id for h in index.search(["Reinigungen des Kessels"], 2)[0]] == ["a"]
    assert [h.chunk_id for h in index.search(["ein Haus"], 2)[0]] == ["b"]
    assert index.search(["die und der von"], 2)[0] == []  # words that every German text has
    english = LexicalIndex(["a", "b"], texts, language="english")
    assert [h.chunk_id for h in english.search(["die und der von"], 2)[0]] != []


@pytest.mark.slow
def test_the_word_index_says_nothing_that_was_not_asked_for():
    """bm25s sets its own logger to DEBUG where it is imported."""
    program = (
        "import logging; logging.basicConfig(level=logging.WARNING); from retrieval.lexical import LexicalIndex; "
        "LexicalIndex(['a'], ['The gates are opened by the smith.'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
