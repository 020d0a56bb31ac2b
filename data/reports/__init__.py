"""What a person reads: the evaluation report, the card of a data set, and the charts and pages they are made of."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
