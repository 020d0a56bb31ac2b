"""A BERT in NumPy beside the same one in torch: equal but for rounding, and without torch."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from retrieval_samples import make_tiny_model

from retrieval.embedding.bert import _erf, numpy_forward
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.model_folder import inspect_model
from retrieval.embedding.sentence_model import load_forward

TEXTS = ["what is a closure", "the river", "a ? of words and the question that is longer than the others by far"]


@pytest.fixture
def folder(tmp_path):
    return make_tiny_model(tmp_path / "model", seed=3)


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_error_function_is_as_near_as_it_says():
    x = np.linspace(-5, 5, 10_001, dtype=np.float32)
    assert np.abs(_erf(x) - [math.erf(value) for value in x]).max() < 6e-7


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_vectors_equal_those_of_torch(folder, pooling):
    modes = {f"pooling_mode_{name}": name == pooling for name in ("mean_tokens", "cls_token")}
    edit(folder / "1_Pooling" / "config.json", **modes)
    model = inspect_model(folder)
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 40, (3, 16))
    mask = (np.arange(16) < np.array([[16], [5], [1]])).astype(np.int64)
    ours, theirs = numpy_forward(model), load_forward(model, device="cpu", precision="float32")[0]
    np.testing.assert_allclose(ours(ids, mask, 0), theirs(ids, mask, 0), rtol=1e-4, atol=1e-5)


def test_an_interactive_embedder_gives_the_vectors_of_the_other_and_keeps_none(folder):
    class Cache(dict):
        def get_many(self, keys):
            raise AssertionError("the cache was read")

        put_many = get_many

    quick = Embedder.load(folder, interactive=True)
    np.testing.assert_allclose(
        quick.encode(TEXTS, kind="query", cache=Cache()),
        Embedder.load(folder, precision="float32").encode(TEXTS, kind="query"),
        atol=1e-5,
    )
    assert quick.info.digest == Embedder.load(folder, precision="float32").info.digest


def test_an_interactive_embedder_imports_no_torch(folder):
    program = (
        "import sys; from pathlib import Path; from retrieval.embedding.embedder import Embedder\n"
        f"Embedder.load(Path({str(folder)!r}), device='cpu', interactive=True).encode(['the river'], kind='query')\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"model_type": "roberta"}),
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"position_embedding_type": "relative_key"}),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        ("1_Pooling/config.json", {"include_prompt": False}),
    ],
)
def test_what_is_no_plain_bert_is_left_to_torch(folder, file, values):
    edit(folder / file, **values)
    assert numpy_forward(inspect_model(folder)) is None


def test_a_folder_without_the_weights_of_a_bert_is_left_to_torch(folder):
    edit(folder / "config.json", num_hidden_layers=3)
    assert numpy_forward(inspect_model(folder)) is None
