"""JAX engine: decoder models of the Llama family, LoRA training, generation and Hugging Face export.

What it offers stands in `__init__.pyi`; docs/python.md says what each is for.
"""

from raft_names import offer

__getattr__, __dir__ = offer(__name__, __file__)
