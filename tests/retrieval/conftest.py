"""Embedding models (a tiny random one, and the real one where it is) and a small hand-written corpus."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from retrieval_samples import make_chunk, make_tiny_model

from data.nouns import Chunk


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A two-layer BERT with random weights, 32 dimensions and a limit of 24 tokens."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    """The same shape as `tiny_model` with other weights."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "other", seed=1)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """all-MiniLM-L6-v2 from RAFT_TEST_EMBEDDER or the model cache, or a skip that says how to supply it."""
    named = os.environ.get("RAFT_TEST_EMBEDDER")
    if named:
        return Path(named)
    from tasks.inputs.models import on_this_machine

    model = on_this_machine("sentence-transformers/all-MiniLM-L6-v2")
    if model is None:
        pytest.skip("the real embedder is not here: set RAFT_TEST_EMBEDDER to its folder, or fetch it (raft models)")
    return model.folder


@pytest.fixture
def town() -> list[Chunk]:
    """Eight short passages of six documents."""
    texts = [
        ("bridge", "The iron bridge crosses the river near the old mills and was built in 1874."),
        ("bridge", "The bridge has a road and a railway, each nine metres wide."),
        ("lighthouse", "The lighthouse keeper lit the oil lamp every night for the ships at sea."),
        ("market", "The market in the square sells wool, salt and fish each week."),
        ("windmill", "The miller grinds wheat in the windmill on the north hill."),
        ("tunnel", "The railway tunnel under the mountain pass opened after snow closed the road."),
        ("harbour", "Ships bring sugar and grain to the harbour from the south coast."),
        ("harbour", "The harbour tower shows a red light in fog."),
    ]
    return [
        make_chunk(text, document=name, ordinal=i, title=name.title(), page=i + 1)
        for i, (name, text) in enumerate(texts)
    ]
