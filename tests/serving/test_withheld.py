"""An adapter whose citations are promised to be right: what the server withholds, and how it asks."""

import json
import shutil

import pytest
from tiny_server import CONTEXT

from data.prompting.contract import CitedQuote, load_template, render_output
from raft_errors import BadInput
from serving.domain import Domain, ServedVersion
from serving.gateway import Gateway
from serving.schema import ChatRequest

TEMPLATE = load_template("numbered")
QUESTION = {
    "model": "sure",
    "messages": [{"role": "user", "content": "When are keys rotated, and when is the north door locked?"}],
}


@pytest.fixture
def plan(served, base, versions, engine, tmp_path):
    """The plan of a request to an adapter that withholds answers below a threshold."""
    folder = shutil.copytree(versions[1].folder, tmp_path / "sure")
    values = json.loads((folder / "raft.json").read_text())

    def find(number):
        if number not in (None, 1):
            raise BadInput(f"no version {number}")
        return ServedVersion("sure@1", folder)

    def planned(threshold, room=0, **options):
        values["prompt"]["citing"] = {"level": 0.1, "threshold": threshold, "copy_quotes": True}
        (folder / "raft.json").write_text(json.dumps(values))
        domain = Domain("sure", served.server.gateway.domains["faq"].retriever, find)
        longest = served.server.gateway.longest - room
        gateway = Gateway(base, {}, {"sure": domain}, engine.adapters, longest, "test")
        return gateway.plan(ChatRequest.model_validate({**QUESTION, **options}))

    return planned


def answer(plan):
    """A reply that quotes the first passage word for word."""
    return render_output("The river", [CitedQuote(1, plan.asked.texts[0][:20])], template=TEMPLATE)


def test_an_answer_below_the_threshold_is_the_refusal_and_cites_nothing(plan):
    unsure = plan(1e9)
    content = unsure.content(answer(unsure))
    assert (content.text, content.annotations) == (TEMPLATE.refusal, ())
    sure = plan(-1e9)
    assert sure.content(answer(sure)).text.startswith("The river")


def test_no_word_of_an_answer_is_streamed_before_it_is_judged(plan):
    unsure = plan(1e9)
    assert unsure.settled(answer(unsure)) == ""


def test_passages_that_are_left_out_do_not_lift_the_threshold(plan):
    whole = plan(1e9, max_tokens=40)
    assert len(whole.asked.texts) == 2
    fewer = plan(1e9, room=CONTEXT - whole.prompt_tokens - 35, max_tokens=40)
    assert (len(fewer.asked.texts), fewer.passages_left_out) == (1, 1)
    assert fewer.content(answer(fewer)).text == TEMPLATE.refusal


def test_quotes_are_copied_as_they_were_when_the_threshold_was_chosen_unless_asked_otherwise(plan):
    assert plan(0.0).request.allowed is not None
    assert plan(0.0, copy_quotes=False).request.allowed is None
