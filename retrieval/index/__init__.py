"""FAISS indexes on disk, checked before they are opened."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
