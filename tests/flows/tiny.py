"""A whole domain in miniature: documents, questions, a random base model and a random embedder, made on the spot."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "retrieval"))

TOWNS = {
    "alder": ("a stone mill", "the baker", "1702", "eleven"),
    "birch": ("an iron bridge", "the smith", "1874", "four"),
    "cedar": ("a salt market", "the warden", "1611", "nine"),
    "dogwood": ("a tall lighthouse", "the keeper", "1790", "two"),
    "elm": ("a wool hall", "the weaver", "1533", "seven"),
    "fir": ("a long tunnel", "the driver", "1901", "three"),
    "gorse": ("a round tower", "the guard", "1488", "five"),
    "hazel": ("a grain harbour", "the pilot", "1655", "six"),
}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_documents(folder: Path) -> Path:
    """One Markdown file a town."""
    folder.mkdir(parents=True, exist_ok=True)
    for town, (thing, who, year, count) in TOWNS.items():
        text = (
            f"# The town of {town.title()}\n\n"
            f"The town of {town.title()} is known for {thing} that stands beside the river. "
            f"It was built in the year {year} by the people of the valley.\n\n"
            f"## Who looks after it\n\n"
            f"In {town.title()} the gates are opened every morning by {who}. "
            f"A walk around the walls of {town.title()} takes {count} hours in good weather.\n"
        )
        (folder / f"{town}.md").write_text(text)
    return folder


def write_questions(path: Path) -> Path:
    """Two questions a town, with their answers and documents."""
    rows = []
    for town, (thing, who, _, count) in TOWNS.items():
        name = town.title()
        rows.append({"question": f"What is the town of {name} known for?", "answer": thing, "document": f"{town}.md"})
        rows.append(
            {"question": f"Who opens the gates of {name} every morning?", "answer": who, "document": f"{town}.md"}
        )
        asked = f"How many hours does a walk around the walls of {name} take?"
        rows.append({"question": asked, "answer": count, "document": f"{town}.md"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SHAPES = {
    "llama": ("LlamaConfig", {"num_hidden_layers": 2, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16}),
    "gemma3": (  # as Google's smallest: five layers with a window, one without
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 6,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 48,
        },
    ),
}
"""Families by name: transformers' configuration and what is its own."""


def make_base(folder: Path, *, template: bool = True, hidden: int = 32, family: str = "llama") -> Path:
    """A small model with random weights, a byte-level BPE tokenizer and, unless told otherwise, a chat template."""
    import tokenizers
    import torch
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f"The town of {t} is known for {v[0]} and {v[1]}" for t, v in TOWNS.items()] * 4, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    if template:
        fast.chat_template = CHATML
    torch.manual_seed(0)
    kind, own = SHAPES[family]
    config = getattr(transformers, kind)(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=64,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **own,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_embedder(folder: Path, seed: int = 0) -> Path:
    from retrieval_samples import make_tiny_model

    return make_tiny_model(folder, seed=seed)
