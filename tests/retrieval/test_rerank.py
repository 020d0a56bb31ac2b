"""A cross-encoder reorders the first hits; a pair's score is its own, and ties keep the first search's order."""

import json

import numpy as np
import pytest
from retrieval_samples import make_tiny_model, make_tiny_reranker

from data.nouns import Hit
from raft_errors import BadInput
from retrieval.rerank import Reranker, inspect_reranker, reordered
from retrieval.search import Retriever, passage_text


class Memory(dict):
    """An item cache."""

    def get_many(self, keys):
        return {key: self[key] for key in keys if key in self}

    def put_many(self, items):
        self.update(items)


class ByLength:
    """Prefers long passages."""

    def score(self, pairs, *, cache=None):
        return [float(len(passage)) for _, passage in pairs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_reranker(tmp_path_factory.mktemp("cross") / "cross", seed=0)


def test_the_first_hits_are_reordered_and_the_rest_keep_their_place(town):
    query = ["ships, the bridge and the railway tunnel"]
    (found,) = Retriever(None, None, town, mode="lexical").search(query, 8)
    retriever = Retriever(None, None, town, mode="lexical", reranker=ByLength(), rerank_depth=3)
    (hits,) = retriever.search(query, 8)
    near, far = found[:3], found[3:]
    first = sorted(near, key=lambda hit: -len(passage_text(retriever.chunks[hit.chunk_id])))
    assert len(far) > 0
    assert [h.chunk_id for h in hits] == [h.chunk_id for h in [*first, *far]]
    assert [h.rank for h in hits] == list(range(1, len(found) + 1))
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert retriever.search(query, 2)[0] == hits[:2]
    both = retriever.search([*query, "salt and fish in the market"], 8)
    assert both[0] == hits, "a query gets the same hits alone and in a batch"


def test_equal_scores_keep_the_order_of_the_first_search():
    near = [Hit("c", 0.3, 1), Hit("a", 0.2, 2), Hit("b", 0.1, 3)]
    assert [h.chunk_id for h in reordered(near, [1.0, 1.0 + 1e-9, 2.0], [])] == ["b", "c", "a"]


def test_scores_lie_between_0_and_1_and_fall_with_rank():
    near = [Hit(str(i), 1.0, i + 1) for i in range(3)]
    far = [Hit(f"far {i}", 1.0, i + 4) for i in range(2)]
    hits = reordered(near, [-700.0, 40.0, -11.5], far)
    assert [h.chunk_id for h in hits] == ["1", "2", "0", "far 0", "far 1"]
    assert all(0 <= h.score <= 1 for h in hits)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_a_pair_has_the_same_score_alone_and_in_any_batch(folder, town):
    reranker = Reranker.load(folder, device="cpu")
    pairs = [("the iron bridge", c.text) for c in town] + [("salt?", town[3].text)]
    together = reranker.score(pairs)
    assert together == [reranker.score([pair])[0] for pair in pairs]
    assert together[::-1] == reranker.score(pairs[::-1])
    assert len(set(together)) == len(pairs)
    assert reranker.score([]) == []


def test_scores_are_those_of_transformers(folder, town):
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    encoded = tokenizer(
        "the iron bridge", town[0].text, truncation=True, max_length=32, return_tensors="pt", return_token_type_ids=True
    )
    with torch.inference_mode():
        expected = float(network(**encoded).logits[0, 0])
    assert encoded["token_type_ids"].unique().tolist() == [0, 1], "the model is told which part is the question"
    assert Reranker.load(folder, device="cpu").score([("the iron bridge", town[0].text)]) == pytest.approx(
        [expected], abs=1e-4
    )


def test_a_cached_score_is_not_computed_again(folder, town):
    cache = Memory()
    pairs = [("the iron bridge", c.text) for c in town]
    first = Reranker.load(folder, device="cpu")
    scores = first.score(pairs, cache=cache)
    assert (first.effort.pairs, first.effort.computed) == (8, 8)
    again = Reranker.load(folder, device="cpu")
    assert again.score([*pairs, ("the oil lamp", town[2].text)], cache=cache)[:8] == scores
    assert (again.effort.pairs, again.effort.computed) == (9, 1)
    assert again.effort.seconds_per_pair > 0


def test_another_models_scores_are_not_taken_from_the_cache(folder, town, tmp_path):
    cache = Memory()
    pair = [("the iron bridge", town[0].text)]
    other = make_tiny_reranker(tmp_path / "other", seed=1)
    assert Reranker.load(folder, device="cpu").score(pair, cache=cache) != Reranker.load(other, device="cpu").score(
        pair, cache=cache
    )


def test_the_digest_follows_the_weights_and_not_who_saved_them(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    assert inspect_reranker(copy).digest == inspect_reranker(folder).digest
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert inspect_reranker(copy).digest != inspect_reranker(folder).digest


def test_a_folder_that_is_no_cross_encoder_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="safetensors"):
        Reranker.load(tmp_path)
    embedder = make_tiny_model(tmp_path / "embedder", seed=0)
    with pytest.raises(BadInput, match="2 outputs"):
        Reranker.load(embedder)


def test_scores_that_are_no_numbers_are_an_error(folder, tmp_path, town):
    import shutil

    from safetensors.numpy import load_file, save_file

    from raft_errors import RaftError

    shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["classifier.bias"] = np.array([np.nan], dtype=np.float32)
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(RaftError, match="not finite"):
        Reranker.load(tmp_path / "broken", device="cpu").score([("a", town[0].text)])
