"""Some passages are preferred: what is added to the logits of tokens, against a plain list of all places."""

import dataclasses
import math
from collections import defaultdict

import pytest

from data.prompting.contract import load_template
from data.prompting.copying import QuoteCopier, TokenBytes

TEMPLATE = dataclasses.replace(load_template("quoted"), begin_quote="<", end_quote=">")
NUMBERED = dataclasses.replace(load_template("numbered"), begin_quote="<", end_quote=">")
PASSAGES = ["the red cat, the red cup.", "the red car; a cat!", "one cat: the red car?"]
WEIGHTS = [0.5, 3.0, 1.5]
PREFERENCE = [math.log(weight) for weight in WEIGHTS]
BYTES = [bytes([b]) for b in range(128)]
WORDS = [b"the", b"the ", b"the red", b" red ca", b"red", b"ca", b"at!>", b"t,", b"?>", b"?> [3", b" [", b" [2]\n"]


@pytest.fixture(params=[BYTES, BYTES + WORDS], ids=["bytes", "words"])
def vocabulary(request):
    return TokenBytes(request.param)


def places():
    """Every place where a quote may begin, (passage, offset): with a word or a sign."""
    for n, text in enumerate(PASSAGES):
        for at, letter in enumerate(text):
            inside = at > 0 and text[at - 1].isalnum() and letter.isalnum()
            if not letter.isspace() and not inside:
                yield n, at


def spell(vocabulary, text):
    ids, rest = [], text.encode()
    while rest:
        ids.append(list(vocabulary.beginning(rest))[-1])
        rest = rest[len(vocabulary.tokens[ids[-1]]) :]
    return ids


def after(quote, token):
    """The places that are possible once a token follows a quote: those that go on so, up to where it closes."""
    text = (quote + token).split(">")[0]
    return [(n, at) for n, at in places() if PASSAGES[n].startswith(text, at)]


def test_what_is_added_is_the_log_of_the_mean_weight_of_the_places_left(vocabulary):
    copier = QuoteCopier(vocabulary, TEMPLATE, PASSAGES, PREFERENCE)
    plain = QuoteCopier(vocabulary, TEMPLATE, PASSAGES)
    shared = weighed = 0
    for quote in {PASSAGES[n][at : at + size] for n, at in places() for size in range(14)}:
        ids = spell(vocabulary, "It says <" + quote)
        held, allowed = copier.allowed(ids), plain.allowed(ids)
        assert list(held) == allowed, "the same tokens may follow"
        left = {i: after(quote, vocabulary.tokens[i].decode()) for i in allowed}
        assert all(left.values())
        mean = {i: sum(WEIGHTS[n] for n, _ in some) / len(some) for i, some in left.items()}
        if max(mean.values()) - min(mean.values()) < 1e-12:
            assert isinstance(held, list), quote
            continue
        weighed += 1
        shared += any(len({n for n, _ in some}) > 1 for some in left.values())
        for i, value in held.items():
            assert math.exp(value) == pytest.approx(mean[i] / max(mean.values()), rel=1e-12), (quote, i)
    assert weighed > 10
    assert shared > 5


def test_for_a_model_to_which_all_places_are_alike_each_is_drawn_in_proportion_to_its_weight():
    """Walks all continuations with the likelihoods of that model, times what is added."""
    vocabulary = TokenBytes(BYTES)
    copier = QuoteCopier(vocabulary, TEMPLATE, PASSAGES, PREFERENCE)
    drawn = defaultdict(float)
    queue = [("", 1.0, list(places()))]
    while queue:
        quote, probability, left = queue.pop()
        if len(left) == 1:
            drawn[left[0]] += probability
            continue
        held = copier.allowed(spell(vocabulary, "<" + quote))
        going = [vocabulary.tokens[i].decode() for i in held if vocabulary.tokens[i] != b">"]  # it quotes to the end
        added = held if isinstance(held, dict) else dict.fromkeys(held, 0.0)
        factors = {t: len(after(quote, t)) * math.exp(added[vocabulary.tokens.index(t.encode())]) for t in going}
        for token, factor in factors.items():
            queue.append((quote + token, probability * factor / sum(factors.values()), after(quote, token)))
    total = sum(WEIGHTS[n] for n, _ in places())
    assert drawn.keys() == set(places())
    for (n, at), probability in drawn.items():
        assert probability == pytest.approx(WEIGHTS[n] / total, rel=1e-9), PASSAGES[n][at:]


def test_a_great_preference_leads_an_indifferent_model_to_the_preferred_passage(vocabulary):
    for best in range(3):
        copier = QuoteCopier(vocabulary, TEMPLATE, PASSAGES, [100.0 * (n == best) for n in range(3)])
        ids = spell(vocabulary, "<")
        while True:
            held = copier.allowed(ids)
            added = held if isinstance(held, dict) else dict.fromkeys(held, 0.0)
            going = [i for i in added if b">" not in vocabulary.tokens[i]]
            if not going:
                break
            most = max(added[i] for i in going)
            ids.append(next(i for i in going if added[i] == most))
        assert vocabulary.text(ids).decode()[1:] in PASSAGES[best]
        assert vocabulary.text(ids).decode()[1:].endswith(PASSAGES[best][-1])


def test_equal_preferences_are_none(vocabulary):
    plain = QuoteCopier(vocabulary, TEMPLATE, PASSAGES)
    for preference in ([], [-1.5, -1.5, -1.5]):
        copier = QuoteCopier(vocabulary, TEMPLATE, PASSAGES, preference)
        for text in ("", "<", "<the ", "<the red ca", "<the red car; a"):
            held = copier.allowed(spell(vocabulary, text))
            assert held == plain.allowed(spell(vocabulary, text))
            assert held is None or isinstance(held, list)


def test_a_quote_that_stands_in_several_passages_gets_the_number_of_the_preferred_one_sooner():
    vocabulary = TokenBytes(BYTES)
    copier = QuoteCopier(vocabulary, NUMBERED, PASSAGES, PREFERENCE)
    assert isinstance(copier.allowed(spell(vocabulary, "<the red car>")), list), "only a blank may follow"
    added = copier.allowed(spell(vocabulary, "<the red car> ["))
    assert {vocabulary.tokens[i]: pytest.approx(math.exp(x)) for i, x in added.items()} == {b"2": 1.0, b"3": 0.5}
    assert isinstance(copier.allowed(spell(vocabulary, "<a cat> [")), list)


def test_where_the_number_stands_before_the_quote_the_passage_is_chosen_already():
    vocabulary = TokenBytes(BYTES)
    template = dataclasses.replace(TEMPLATE, citation="before")
    copier = QuoteCopier(vocabulary, template, PASSAGES, PREFERENCE)
    assert isinstance(copier.allowed(spell(vocabulary, "Passage [2] says <")), list)
    assert isinstance(copier.allowed(spell(vocabulary, "It says <")), dict)


def test_a_preference_for_each_passage():
    with pytest.raises(ValueError, match="2 preferences for 3 passages"):
        QuoteCopier(TokenBytes(BYTES), TEMPLATE, PASSAGES, [0.0, 1.0])
