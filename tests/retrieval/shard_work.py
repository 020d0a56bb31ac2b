"""Work of a shard without a model: quick, and fatal to the first worker that meets the fatal text."""

import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np

from retrieval.embedding.embedder import Embeddings

DIM = 32


def vectors_of(model, texts):
    """A vector from the hash of its text; `rows` of the model is passed through as the token count."""
    for text in texts:
        if text.startswith("fatal "):
            marker = Path(text.removeprefix("fatal "))
            if not marker.exists():
                marker.touch()
                time.sleep(0.5)  # so that others finish first
                os.kill(os.getpid(), signal.SIGKILL)
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8).astype(np.float32) for text in texts]
    tokens = np.full(len(texts), 3, dtype=np.int32)
    return Embeddings(np.stack(rows)[:, :DIM], tokens, 0, len(texts), 0)


def always_fatal(model, texts):
    os.kill(os.getpid(), signal.SIGKILL)


def refused(model, texts):
    raise ValueError("these texts will not do")
