"""Questions about a corpus: imported, or asked of a teacher; each with its gold chunks and verbatim quotes."""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
