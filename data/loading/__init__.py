"""Documents in: `load_corpus` reads files of every format in worker processes and says what it could not use.

Example:
    corpus = load_corpus(["./docs", "pydoc:topics"])
    corpus.documents[0].text, corpus.quarantined, corpus.counts
"""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
