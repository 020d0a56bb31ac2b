"""Vector stores that are searched in place of the index: FAISS, LanceDB, Qdrant."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
