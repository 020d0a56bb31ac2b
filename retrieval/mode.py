"""The ways to search, and the one taken where nobody names one; imports nothing, so that settings can read it.

`hybrid` is ahead of `dense` or level with it on every set of docs/retrieval.md, whatever the constant of its fusion,
and finds a sentence that was added later by its rare words.
"""

from typing import Literal, get_args

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)

DEFAULT_MODE: Mode = "hybrid"
