"""A stream's pieces are the whole text, whatever its characters, its stop strings and the tokens they fall into; and
each citation stands where it says, for many answers."""

import asyncio
import json
import random
import time
from types import SimpleNamespace

import pytest
import tokenizers
from tiny_server import events

from data.prompting.contract import CitedQuote, load_template, render_output
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.requests import Job, Request
from retrieval.search import Citation
from serving import answering
from serving.content.citations import finished
from serving.content.plan import Plan
from serving.forms.answer import Head, data
from serving.forms.chat import ChatForm
from serving.forms.completions import CompletionForm
from serving.forms.responses import ResponsesForm
from serving.schema import ChatRequest, CompletionRequest, ResponsesRequest
from serving.telemetry import SILENT
from tasks.runtime.asking import Asked

TEMPLATE = load_template("numbered")
PIECES = [
    "a town",
    " is",
    "\n",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "日本語",
    "한국",
    "e\u0301",
    "ß",
    "مرحبا",
    "“x”",
    "<b>",
    "$1",
    " ",
    "stop",
    "😀",
    "[1]",
]
FORMS = [
    (ChatForm, ChatRequest(model="m", messages=[{"role": "user", "content": "?"}])),
    (CompletionForm, CompletionRequest(model="m", prompt="?")),
    (ResponsesForm, ResponsesRequest(model="m", input="?")),
]


@pytest.fixture(scope="module")
def tokenizer(base) -> Tokenizer:
    return Tokenizer.load(base)


def random_text(dice: random.Random, count: int = 12) -> str:
    return "".join(dice.choice(PIECES) for _ in range(dice.randrange(1, count)))


def answer_in_pieces(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...], asked: Asked | None, form: int, most: int = 10_000
):
    """A stream in which the engine writes a text token by token, and the answer as it is without a stream."""
    prompt = Request((1,), most, stop=stop)
    plan = Plan("m", prompt, 1, asked, passage_url="http://here")

    async def run():
        tasks = []

        def submit(request, on_text, on_done):
            job = Job(request)

            async def write():
                for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_ids[0]]:
                    job.completion = job.take([token], [], tokenizer)
                    if job.completion:
                        on_done(job)
                        return
                    on_text(job.settled(tokenizer))
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

            tasks.append(asyncio.ensure_future(write()))
            return job

        reply = answering.Reply(SimpleNamespace(loop=SimpleNamespace(submit=submit)), plan, SILENT)
        kind, request = FORMS[form]
        shape = kind(request, Head("id", 0, "m", "fp"), str)
        written = [
            one async for one in answering._events(reply, shape, time.monotonic() + 600, lambda completion: None)
        ]
        return "".join(written), reply.answer(reply.completion).content

    return asyncio.run(run())


def text_pieces(stream: str) -> list[str]:
    pieces = []
    for value in events(stream):
        if value == "[DONE]":
            break
        if value.get("type") == "response.output_text.delta":
            pieces.append(value["delta"])
        for choice in value.get("choices", []):
            pieces.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return [piece for piece in pieces if piece]


@pytest.mark.slow
def test_the_pieces_are_the_text_up_to_its_stop(tokenizer):
    dice = random.Random(0)
    many = 0
    for number in range(200):
        text = random_text(dice)
        places = [dice.randrange(len(text)) for _ in range(number % 3)]
        stop = tuple(text[place : place + dice.randrange(1, 5)] for place in places)
        expected = text[: min((text.index(one) for one in stop), default=len(text))]
        stream, content = answer_in_pieces(tokenizer, text, stop, None, number % 3)
        pieces = text_pieces(stream)
        assert "".join(pieces) == content.text == expected
        assert not any("\ufffd" in piece for piece in pieces)
        many += len(pieces) > 2
    assert many > 100, "a stream is to come in pieces"


def test_half_a_character_is_nothing_to_stop_at(tokenizer):
    stream, content = answer_in_pieces(tokenizer, "a😀b\ufffdc", ("\ufffd",), None, 0)
    assert "".join(text_pieces(stream)) == content.text == "a😀b"


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    """As Llama 2's: what is no piece of the vocabulary is written in tokens of one byte."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"aeinostw"]
    model = tokenizers.models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True, unk_token="<unk>")
    backend, steps = tokenizers.Tokenizer(model), tokenizers.decoders
    backend.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    backend.decoder = steps.Sequence([steps.Replace("\u2581", " "), steps.ByteFallback(), steps.Fuse()])
    return Tokenizer(backend, {"eos_token": "</s>"}, "", None, (2,))


def test_a_text_in_bytes_comes_whole_wherever_it_is_cut(byte_tokenizer):
    dice = random.Random(3)
    cut = 0
    for number in range(60):
        text = random_text(dice)
        written = [byte_tokenizer.spelling(i).written for i in byte_tokenizer.encode(text, add_special_tokens=False)]
        most = dice.randrange(1, len(written) + 2)
        expected = b"".join(written[:most]).decode("utf-8", "replace")
        stream, content = answer_in_pieces(byte_tokenizer, text, (), None, number % 3, most)
        assert "".join(text_pieces(stream)) == content.text == expected
        cut += expected.endswith("\ufffd")
    assert cut > 5


@pytest.mark.slow
def test_answers_with_citations_are_the_same_in_pieces_and_each_place_holds_its_quote(tokenizer):
    dice = random.Random(1)
    verbatim = 0
    for number in range(100):
        texts = [random_text(dice, 20) + f" passage {n}" for n in range(dice.randrange(1, 5))]
        citations = tuple(
            Citation(f"c{n}", "file:///x/a.md", "A", None, 0, len(text), (), 1.0, n, text)
            for n, text in enumerate(texts, 1)
        )
        asked = Asked("?", citations, TEMPLATE, may_refuse=True)
        quotes = []
        for _ in range(dice.randrange(4)):
            passage = dice.randrange(1, len(texts) + 3)  # some have no passage
            source = texts[(passage - 1) % len(texts)]
            start = dice.randrange(len(source))
            words = source[start : start + dice.randrange(3, 12)] if dice.random() < 0.7 else random_text(dice)
            quotes.append(CitedQuote(passage, words))
        text = render_output(random_text(dice), quotes, template=TEMPLATE)
        stream, content = answer_in_pieces(tokenizer, text, (), asked, number % 3)
        assert "".join(text_pieces(stream)) == content.text
        assert content == finished(text, asked, "http://here")
        for one in content.annotations:
            place = one["url_citation"]
            assert content.text[place["start_index"] : place["end_index"]] == one["quote"]
            assert content.text[place["end_index"] :].startswith(f"” [{one['passage']}]")
            assert 1 <= one["passage"] <= len(texts)
            squeezed = [" ".join(part.split()) for part in (one["quote"], texts[one["passage"] - 1])]
            if one["verbatim"]:
                assert squeezed[0] in squeezed[1]
                verbatim += 1
            else:
                assert one["quote"] not in texts[one["passage"] - 1]
    assert verbatim > 30


def test_a_text_never_breaks_the_line_of_its_event():
    """As httpx's `iter_lines` and `str.splitlines` read a stream."""
    text = "a\u2028b\x85c\u2029d\x0b\x0c\x1ce"
    for kind in ("", "response.output_text.delta"):
        lines = data({"text": text}, kind).splitlines()
        assert [json.loads(line[6:]) for line in lines if line.startswith("data: ")] == [{"text": text}]
        assert len(lines) == (3 if kind else 2)
