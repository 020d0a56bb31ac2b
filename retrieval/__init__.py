"""Embedding, indexing, searching and mining over chunks, and how well it finds."""

from raft_names import require

require("data")
