"""Who is asked: the Teacher protocol, any OpenAI-compatible endpoint, and a replay teacher for tests."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
