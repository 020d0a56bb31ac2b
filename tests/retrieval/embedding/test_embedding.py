"""Vectors are unit, finite, depend on their text alone, and survive a killed run byte for byte."""

import json
import logging
import random
import shutil

import numpy as np
import pytest
from retrieval_samples import WORDS, make_tiny_model

from data.nouns import MemoryCache
from raft_errors import BadInput
from retrieval.embedding import embedder as embedding
from retrieval.embedding.calibration import Calibration, compare, rank_agreement
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.model_folder import inspect_model


@pytest.fixture(scope="module")
def embedder(tiny_model):
    return Embedder.load(tiny_model, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(3)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(150)]


class KilledCache(MemoryCache):
    """A cache whose process dies after a number of commits."""

    def __init__(self, commits: int) -> None:
        super().__init__()
        self.left = commits

    def put_many(self, items):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().put_many(items)


def test_vectors_are_float32_and_of_unit_length(embedder, texts):
    vectors = embedder.encode(texts)
    assert vectors.shape == (150, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_it_computes_what_sentence_transformers_computes(embedder, tiny_model, texts):
    from sentence_transformers import SentenceTransformer

    stock = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.encode(texts), stock, atol=2e-6)


def test_nothing_is_loaded_where_every_vector_is_cached(embedder, tiny_model, texts, monkeypatch):
    cache = MemoryCache()
    expected = embedder.encode(texts, cache=cache)
    for name in ("load_forward", "batch_rows"):  # either imports torch
        monkeypatch.setattr(embedding, name, lambda *a, **k: pytest.fail("the model was loaded"))
    again = Embedder.load(tiny_model, device="cpu", precision="float32")
    np.testing.assert_array_equal(again.encode(texts, cache=cache), expected)


def test_a_model_that_pools_otherwise_is_computed_as_it_says(tmp_path, texts):
    from sentence_transformers import SentenceTransformer

    folder = make_tiny_model(tmp_path / "cls", seed=0)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    stock = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    ours = Embedder.load(folder, device="cpu", precision="float32").encode(texts)
    np.testing.assert_allclose(ours, stock, atol=2e-6)


def test_a_text_has_the_same_vector_in_any_company(embedder, texts):
    whole = embedder.encode(texts)
    for picked in ([7], [3, 149, 80], list(range(0, 150, 2)), [5, 5, 5]):
        assert np.array_equal(embedder.encode([texts[i] for i in picked]), whole[picked])


def test_how_many_texts_are_taken_at_a_time_changes_nothing(embedder, texts, monkeypatch):
    whole = embedder.embed(texts, cache=MemoryCache())
    monkeypatch.setattr("retrieval.embedding.embedder._WINDOW", 37)
    monkeypatch.setattr("retrieval.embedding.embedder._TOKENISED_AT_ONCE", 5)
    parts = embedder.embed(texts, cache=MemoryCache())
    assert parts.vectors.tobytes() == whole.vectors.tobytes()
    assert np.array_equal(parts.tokens, whole.tokens)


def test_a_killed_run_goes_on_to_the_same_bytes(embedder, texts):
    whole = embedder.embed(texts, cache=MemoryCache())
    killed = KilledCache(commits=3)
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(texts, cache=killed)
    saved = len(killed.items)
    assert 0 < saved < len(set(texts))
    killed.left = 1000
    resumed = embedder.embed(texts, cache=killed)
    assert resumed.vectors.tobytes() == whole.vectors.tobytes()
    assert (resumed.reused, resumed.computed) == (saved, len(set(texts)) - saved)
    assert np.array_equal(resumed.tokens, whole.tokens)


def test_a_full_cache_needs_no_model(embedder, texts):
    cache = MemoryCache()
    first = embedder.embed(texts, cache=cache)
    again = embedder.embed(texts, cache=cache)
    assert again.computed == 0
    assert again.vectors.tobytes() == first.vectors.tobytes()


def test_a_damaged_cache_item_is_computed_again(embedder, texts):
    cache = MemoryCache()
    first = embedder.embed(texts, cache=cache)
    key = next(iter(cache.items))
    cache.items[key] = cache.items[key][:-1]
    assert embedder.embed(texts, cache=cache).computed == 1
    assert embedder.embed(texts, cache=cache).vectors.tobytes() == first.vectors.tobytes()


def test_cut_texts_are_counted_also_when_they_come_from_the_cache(embedder, caplog):
    long = " ".join(["river"] * 40)
    cache = MemoryCache()
    for _ in range(2):
        with caplog.at_level(logging.WARNING, logger="raft.retrieval"):
            done = embedder.embed(["the sea", long, long], cache=cache)
        assert done.truncated == 2
        assert done.tokens.tolist() == [4, 42, 42]
        assert "2 of 3 texts" in caplog.text
        caplog.clear()
    assert np.array_equal(done.vectors[1], embedder.encode([" ".join(["river"] * 22)])[0])


def test_progress_ends_at_the_number_of_distinct_texts(embedder):
    seen = []
    embedder.embed(["sea", "sea", "hill"], progress=lambda done, total, what: seen.append((done, total, what)))
    assert seen[-1] == (2, 2, "texts")


def test_a_query_prompt_goes_before_queries_only(tmp_path):
    folder = make_tiny_model(tmp_path / "prompted", seed=0, query_prompt="river: ")
    prompted = Embedder.load(folder, device="cpu", precision="float32")
    assert prompted.info.query_prompt == "river: "
    assert np.array_equal(prompted.encode(["sea"], kind="query"), prompted.encode(["river: sea"]))
    assert not np.array_equal(prompted.encode(["sea"], kind="query"), prompted.encode(["sea"]))


def test_no_texts_give_an_empty_array(embedder):
    assert embedder.encode([]).shape == (0, 32)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_bad_input(embedder, text):
    with pytest.raises(BadInput, match="Text 1 of 2"):
        embedder.encode(["sea", text])


def test_a_lone_surrogate_is_embedded_not_crashed_on(embedder):
    assert np.isfinite(embedder.encode(["sea \ud800 hill"])).all()


def test_the_digest_follows_weights_and_not_clerical_fields(tiny_model, other_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "_name_or_path": "elsewhere", "transformers_version": "9"}))
    assert inspect_model(copy).digest == inspect_model(tiny_model).digest
    assert inspect_model(other_model).digest != inspect_model(tiny_model).digest
    (copy / "1_Pooling/config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_cls_token": true}')
    assert inspect_model(copy).digest != inspect_model(tiny_model).digest


def test_a_folder_that_is_no_model_is_bad_input(tmp_path, tiny_model):
    with pytest.raises(BadInput, match=r"config\.json"):
        Embedder.load(tmp_path)
    copy = shutil.copytree(tiny_model, tmp_path / "pickled")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BadInput, match="safetensors"):
        Embedder.load(copy)


def test_a_model_that_brings_its_own_code_is_refused(tmp_path, tiny_model):
    copy = shutil.copytree(tiny_model, tmp_path / "custom")
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "custom_module.Pooling"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BadInput, match=r"custom_module\.Pooling"):
        Embedder.load(copy)


def test_an_unknown_precision_or_device_is_bad_input(tiny_model):
    with pytest.raises(BadInput, match="float8"):
        Embedder.load(tiny_model, precision="float8")
    with pytest.raises(BadInput, match="warp"):
        Embedder.load(tiny_model, device="warp")


def test_bfloat16_still_gives_float32_unit_vectors(tiny_model, texts):
    vectors = Embedder.load(tiny_model, device="cpu", precision="bfloat16").encode(texts[:20])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_remembered_calibration_is_used_and_not_measured_again(tiny_model, tmp_path, monkeypatch):
    file = tmp_path / "calibration.json"
    monkeypatch.setattr("retrieval.embedding.embedder.hardware", lambda device: ("a chip with bfloat16", True))
    decision = Calibration("bfloat16", 3.0, 0.9999, 1.0, "made up")
    monkeypatch.setattr("retrieval.embedding.embedder.compare", lambda full, half: decision)
    assert Embedder.load(tiny_model, device="cpu", calibration=file).info.precision == "bfloat16"
    monkeypatch.setattr("retrieval.embedding.embedder.compare", lambda full, half: pytest.fail("measured twice"))
    assert Embedder.load(tiny_model, device="cpu", calibration=file).info.precision == "bfloat16"


def test_one_text_is_not_embedded_letter_by_letter(tiny_model):
    with pytest.raises(BadInput, match="one text"):
        Embedder.load(str(tiny_model), device="cpu").encode("the sea")


def test_nobody_is_told_that_texts_of_the_calibration_were_cut(tiny_model, monkeypatch, caplog):
    monkeypatch.setattr("retrieval.embedding.embedder.hardware", lambda device: ("a chip with bfloat16", True))
    embedder = Embedder.load(tiny_model, device="cpu")  # which reads 24 tokens of passages of 400 characters
    assert "cut at" not in caplog.text
    embedder.encode(["the sea", "river " * 40])
    assert "cut at the embedder's 24 tokens: 1 of 2 texts" in caplog.text


def test_without_bfloat16_units_it_stays_with_float32(tiny_model, monkeypatch):
    monkeypatch.setattr("retrieval.embedding.embedder.hardware", lambda device: ("an old chip", False))
    monkeypatch.setattr("retrieval.embedding.embedder.compare", lambda full, half: pytest.fail("nothing to measure"))
    assert Embedder.load(tiny_model, device="cpu").info.precision == "float32"


def test_bfloat16_is_refused_when_it_ranks_differently(monkeypatch):
    rng = np.random.default_rng(0)
    good, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 30, 8)))
    clock = iter([0, 4, 4, 5, 5, 9, 9, 10] * 2)  # float32 takes 4, bfloat16 takes 1
    monkeypatch.setattr("retrieval.embedding.calibration.time.perf_counter", lambda: next(clock))
    assert compare(lambda: good, lambda: other).precision == "float32"
    assert compare(lambda: good, lambda: good.copy()).precision == "bfloat16"
    assert rank_agreement(good, good) == 1.0


def test_bfloat16_is_refused_when_it_is_no_faster(monkeypatch):
    vectors = np.eye(8, dtype=np.float32)
    clock = iter(range(100))
    monkeypatch.setattr("retrieval.embedding.calibration.time.perf_counter", lambda: next(clock))
    assert compare(lambda: vectors, lambda: vectors).precision == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_real_model_gives_a_text_the_same_vector_in_any_company(real_model, precision):
    from retrieval.embedding.calibration import sample_texts

    rng = random.Random(0)
    texts = [text[: rng.randint(4, 150)] for text in sample_texts(60)] + sample_texts(2, 600)
    embedder = Embedder.load(real_model, device="cpu", precision=precision, rows=16)  # more of one length than a batch
    whole = embedder.encode(texts)
    for size in (1, 2, 9):
        picked = rng.sample(range(len(texts)), size)
        assert np.array_equal(embedder.encode([texts[i] for i in picked]), whole[picked])
