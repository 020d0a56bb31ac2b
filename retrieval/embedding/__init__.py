"""Texts to unit vectors, in one process or on many."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
