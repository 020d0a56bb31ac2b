"""Words and characters: how texts are compared, quotes found verbatim, and texts that are safe to show."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
