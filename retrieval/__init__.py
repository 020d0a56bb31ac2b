"""Embedding, indexing, searching and mining over chunks, and how well it finds.

What it offers stands in `__init__.pyi`; docs/python.md says what each is for.
"""

from raft_names import offer, require

require("data")
__getattr__, __dir__ = offer(__name__, __file__)
