"""How good answers are, whether one model is better than another, and whether an adapter may be promoted."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
