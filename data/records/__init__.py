"""RAFT records: questions among oracle and distractors, split so that no test document is trained on."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
