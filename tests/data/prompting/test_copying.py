"""Whatever a model would choose, its quotes are words of the passages, under the right number."""

import dataclasses
import random
import sys
from pathlib import Path

import pytest

from data.evaluation.metrics import check_quotes
from data.prompting.contract import CitedQuote, load_template, parse_answer, render_output
from data.prompting.copying import QuoteCopier, TokenBytes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jora_engine"))

PASSAGES = [
    "The red valve (of brass) closes at 90 degrees.\nDescale the boiler every six months: it lasts.",
    "A valve closes at 90 degrees, and never “by hand” at that.  Zürich's boilers are naïve – 漢字。",
    "## Red\n\n* The red valve is red.",
]


@pytest.fixture(scope="module", params=["byte-level", "single characters"])
def vocabulary(request):
    """Ids of a trained byte-level tokenizer with markers' pieces among them; or one id a byte."""
    if request.param == "single characters":
        return TokenBytes([None, *(bytes([b]) for b in range(256))])
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [*PASSAGES, "degrees.” [1]", "degrees.##end_quote##\n<ANSWER>: ##begin_quote##The", "“The ”\n [2]\n"]
    backend.train_from_iterator(words * 4, trainer)
    from jora_engine.files.tokenizer import Tokenizer

    tokenizer = Tokenizer(backend, {"eos_token": "<|im_end|>"}, "", None, (0,))
    return TokenBytes(tokenizer.token_bytes())


def spell(vocabulary, text):
    """Longest-first ids of a text."""
    ids, rest = [], text.encode()
    while rest:
        ids.append(list(vocabulary.beginning(rest))[-1])
        rest = rest[len(vocabulary.tokens[ids[-1]]) :]
    return ids


@pytest.mark.parametrize("template", map(load_template, ["raft", "numbered", "quoted"]), ids=lambda t: t.id)
def test_a_blind_walk_through_what_is_allowed_quotes_word_for_word(vocabulary, template):
    copier = QuoteCopier(vocabulary, template, PASSAGES)
    draw = random.Random(0)
    seen = set()
    for _ in range(60):
        ids = spell(vocabulary, f"Here: {template.begin_quote}")
        longer = draw.random()  # walks that close at once, and walks that go on
        while (allowed := copier.allowed(ids)) is not None:
            assert allowed
            going = [i for i in allowed if template.end_quote.encode()[:1] not in vocabulary.tokens[i]]
            ids.append(draw.choice(going if going and draw.random() < longer else allowed))
        text = vocabulary.text(ids).decode()
        (quote,) = parse_answer(f"{text}\n{template.answer_marker} x", template=template).quotes
        (row,) = check_quotes([quote], PASSAGES, [])
        assert row["verbatim"], text
        assert quote.text.encode() in b"\n".join(p.encode() for p in PASSAGES)
        seen.add(row["passage"])
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("template", map(load_template, ["raft", "numbered", "quoted"]), ids=lambda t: t.id)
def test_right_labels_can_be_written_token_by_token(vocabulary, template):
    quotes = [
        CitedQuote(1, "Descale the boiler every six months: it lasts."),
        CitedQuote(2, "never “by hand” at that."),
        CitedQuote(3, "red valve is red"),
    ]
    copier = QuoteCopier(vocabulary, template, PASSAGES)
    label = render_output("every six months", quotes, template=template)
    ids = spell(vocabulary, label)
    held = 0
    for count, following in enumerate(ids):
        allowed = copier.allowed(ids[:count])
        held += allowed is not None
        assert allowed is None or following in allowed, vocabulary.text(ids[:count])
    assert held >= 10


def test_quotes_begin_and_end_with_words_and_a_number_must_hold_them(vocabulary):
    template = load_template("numbered")
    copier = QuoteCopier(vocabulary, template, PASSAGES)

    def follows(text):
        allowed = copier.allowed(spell(vocabulary, text))
        return None if allowed is None else {vocabulary.tokens[i][:1] for i in allowed}

    assert follows("No quote yet") is None
    assert follows("“The red v") == {b"a"}  # not closed inside a word
    assert follows("“closes at 90 degrees") == {b".", b",", template.end_quote.encode()[:1]}
    assert b"r" in follows("“")
    assert b"e" in follows("“")
    assert follows("“at 90 degrees” [") == {b"1", b"2"}
    assert follows("“red valve is red” [") == {b"3"}
    assert follows("“at 90 degrees” [1]") is None
    assert follows("“something else") is None  # nothing can mend it
    assert follows("“red valve is red” [3]\nAnd “Zür") == {b"i"}
    assert follows("“red valve is red” [3]\nAnswer: the “red") is None  # answers are free


def test_a_number_before_the_quote_says_which_passage_may_be_quoted(vocabulary):
    template = dataclasses.replace(load_template("quoted"), citation="before")
    copier = QuoteCopier(vocabulary, template, PASSAGES)
    for words, number in (("Descale", 1), ("Zürich", 2)):
        first = spell(vocabulary, words)[0]
        for shown in (1, 2, 3):
            allowed = copier.allowed(spell(vocabulary, f"Passage [{shown}] says “"))
            assert (first in allowed) == (shown == number)
