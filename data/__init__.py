"""Documents, chunks, questions, records, prompts and their evaluation, as plain functions and values.

What it offers stands in `__init__.pyi`; docs/python.md says what each is for.
"""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
