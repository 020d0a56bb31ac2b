"""A base with words, and records for it."""

import pytest


@pytest.fixture
def with_words(tokenizer_folder, model_folder, tmp_path):
    """(folder of a base with the small tokenizer, file of records for it)."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder("smollm2"))
    torch.manual_seed(0)
    model.resize_token_embeddings(400)
    model.save_pretrained(tokenizer_folder)
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f'{{"instruction": "say {n}", "output": "it is {n}"}}\n' for n in range(16)))
    return tokenizer_folder, file
