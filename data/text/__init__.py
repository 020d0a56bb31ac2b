"""Words and characters: one form in which texts are compared, scripts without spaces, quotes found verbatim, and texts that are safe to show."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
