"""An embedder that has not learnt the corpus' language is told of, with one that has."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from retrieval.embedding.languages import SPEAKS_MANY, advice

GERMAN = ["Der Kessel hat zwei Ventile, und das rote Ventil schließt bei neunzig Grad."] * 3
THAI = ["พนักงานมีสิทธิลาพักร้อนปีละสิบห้าวันตามระเบียบของบริษัท"] * 3
ENGLISH = ["The boiler has two valves, and the red valve closes at ninety degrees."] * 3


def words_of(texts, folder):
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *sorted({w for t in texts for w in t.split()})])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("name", "texts", "told"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", GERMAN, True),
        ("sentence-transformers/all-MiniLM-L6-v2", ENGLISH, False),
        ("BAAI/bge-small-en-v1.5", THAI, True),
        ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", GERMAN, False),
        ("ours/own-model", GERMAN, False),  # nobody knows
    ],
)
def test_a_model_that_is_known_for_english_is_told_of_elsewhere(tmp_path, name, texts, told):
    words = advice(name, tmp_path, texts)
    assert bool(words) == told
    assert not told or (SPEAKS_MANY in words and name in words)


@pytest.mark.parametrize(("languages", "told"), [("en", True), ("[en, de]", False), ("multilingual", False)])
def test_the_card_is_believed_before_the_name(tmp_path, languages, told):
    (tmp_path / "README.md").write_text(f"---\nlanguage: {languages}\nlicense: mit\n---\n# A model\n")
    assert bool(advice("ours/msmarco-own", tmp_path, GERMAN)) == told


def test_a_model_that_does_not_know_the_words_is_told_of(tmp_path):
    words_of(ENGLISH, tmp_path)
    assert "does not know 100% of the tokens" in advice("ours/own-model", tmp_path, THAI)
    assert advice("ours/own-model", tmp_path, ENGLISH) == ""
    (tmp_path / "tokenizer.json").write_text("{broken")
    assert advice("ours/own-model", tmp_path, THAI) == ""
