"""The prompt contract: how passages and question are put to a model, and how its answer is read."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
