"""Documents cut into chunks: spans of at most so many tokens that respect headings."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
