"""Prompts in, completions out: batched decoding with a key/value cache."""
