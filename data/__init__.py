"""Documents, chunks, questions, records, prompts and their evaluation, as plain functions and values."""
