"""A tiny random BERT in sentence-transformers layout, made on the fly, and makers of chunks and questions."""

import json
from pathlib import Path

from data.nouns import Chunk, Question, Quote, digest, text_sha256

_PROSE = """
a an and are at bridge built by castle city coast crosses each every fire fish from grain harbour has high hill in
iron is it keeper lamp light lighthouse long market metres miller mills mountain near night north of oil old on or pass
people port railway rain river road salt sea ship ships snow south square stone street sugar the to tower town trade
train trees tunnel valley was water west wheat which wide wind windmill wool year years
"""
WORDS = _PROSE.split()


def make_tiny_model(folder: Path, *, seed: int, query_prompt: str = "") -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    letters = [c for letter in "abcdefghijklmnopqrstuvwxyz?" for c in (letter, f"##{letter}")]
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*WORDS, *letters])])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, initializer_range=0.4,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules = [
        {"idx": int(n), "name": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, path, kind in kinds
    ]
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling").mkdir()
    for name, value in {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32,
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        },
        "config_sentence_transformers.json": {"prompts": {"query": query_prompt, "document": ""}},
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(value))
    return folder


def make_tiny_reranker(folder: Path, *, seed: int) -> Path:
    """A cross-encoder of the same size, whose tokenizer marks the second text as such."""
    import torch
    from tokenizers import Tokenizer, processors
    from transformers import BertConfig, BertForSequenceClassification

    make_tiny_model(folder, seed=seed)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BertConfig.from_pretrained(folder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_chunk(
    text: str, *, document: str = "doc", ordinal: int = 0, title: str = "", page: int | None = None
) -> Chunk:
    document_id = digest(document)
    return Chunk(
        id=digest(document_id, str(ordinal), text), document_id=document_id, ordinal=ordinal, text=text,
        start=100 * ordinal, end=100 * ordinal + len(text), tokens=len(text.split()), sha256=text_sha256(text),
        source=f"{document}.md", title=title, page=page, heading_path=("Guide", document),
    )  # fmt: skip


def make_question(text: str, answer: str, gold: Chunk, *, answers: tuple[str, ...] = (), quote: str = "") -> Question:
    return Question(
        id=digest(text, gold.id), question=text, answer=answer, gold_chunk_ids=(gold.id,),
        document_ids=(gold.document_id,), quotes=(Quote(gold.id, quote),) if quote else (), answers=answers,
    )  # fmt: skip
