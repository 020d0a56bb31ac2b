"""Documents in: `load_corpus` reads files of every format in worker processes and says what it could not use.

Example:
    corpus = load_corpus(["./docs", "pydoc:topics"])
    corpus.documents[0].text, corpus.quarantined, corpus.counts
"""

from data.loading.corpus import load_corpus
from data.loading.options import REASONS, Corpus, Duplicate, LoadOptions, Quarantined
from data.loading.parsers import PARSERS
from data.loading.report import corpus_report

__all__ = ["PARSERS", "REASONS", "Corpus", "Duplicate", "LoadOptions", "Quarantined", "corpus_report", "load_corpus"]
