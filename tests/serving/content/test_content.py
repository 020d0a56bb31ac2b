"""What a person reads, and the citations in it."""

import itertools

from data.prompting.contract import CitedQuote, load_template, render_output
from retrieval.search import Citation
from serving.content.citations import Content, finished, growing
from tasks.runtime.asking import Asked

TEMPLATE = load_template("numbered")


def citation(number, text, source="file:///home/somebody/secret/guide.pdf"):
    return Citation(f"c/{number}", source, "Guide", 3, 100, 100 + len(text), (), 0.5, number, text)


ASKED = Asked(
    "When?",
    (citation(1, "Keys are rotated on Monday."), citation(2, "Doors are “locked” at nine.", "https://x.example/doors")),
    TEMPLATE,
    may_refuse=True,
)


def reply(answer, *quotes):
    return render_output(answer, [CitedQuote(*quote) for quote in quotes], template=TEMPLATE)


def test_each_citation_stands_in_the_content_where_it_says_and_opens_the_passage_that_holds_it():
    text = reply(
        "On Monday 🗝.", (1, "rotated on Monday"), (2, "locked at ten"), (7, "nowhere"), (1, "rotated on Monday")
    )
    done = finished(text, ASKED, "/v1/passages/faq")
    content, annotations = done.text, done.annotations
    assert content == "On Monday 🗝.\n\n“rotated on Monday” [1]\n“locked at ten” [2]"
    assert TEMPLATE.answer_marker not in content
    assert [(a["passage"], a["verbatim"]) for a in annotations] == [(1, True), (2, False)]
    for one in annotations:
        place = one["url_citation"]
        assert content[place["start_index"] : place["end_index"]] == one["quote"]
        assert one["verbatim"] == (one["quote"] in ASKED.texts[one["passage"] - 1])
        assert place["url"] == f"/v1/passages/faq/c%2F{one['passage']}"
    assert [a["source"] for a in annotations] == ["guide.pdf", "https://x.example/doors"]
    assert annotations[0]["url_citation"]["title"] == "Guide, page 3"
    assert annotations[0]["span"] == [100, 127]


def test_a_refusal_cites_nothing():
    text = reply(TEMPLATE.refusal, (1, "rotated on Monday"))
    for sources in ("annotations", "text", "open_webui"):
        assert finished(text, ASKED, "", sources) == Content(TEMPLATE.refusal)


def test_what_grows_only_grows_and_is_the_beginning_of_the_whole():
    marker = TEMPLATE.answer_marker
    texts = [
        reply("On Monday, at\n dawn. ", (1, "rotated on Monday")),
        reply("A") + f" {marker} again",
        f"{marker} almost {marker[:3]} not the mark",
        f"no mark at all {TEMPLATE.begin_quote}x{TEMPLATE.end_quote} and on",
        f"{marker}",
        "",
    ]
    for text in texts:
        pieces = [growing(text[:n], TEMPLATE) for n in range(len(text) + 1)]
        content = finished(text, ASKED, "", "text").text
        assert all(later.startswith(sooner) for sooner, later in itertools.pairwise([*pieces, content]))
    assert growing(texts[0][:-4], TEMPLATE).startswith("On Monday")


def test_sources_as_text_have_the_numbers_of_the_quotes_and_change_no_place_in_the_content():
    text = reply("At dawn.", (2, "locked at ten"), (1, "rotated on Monday"), (1, "Keys are rotated"))
    plain, done = finished(text, ASKED, "http://here"), finished(text, ASKED, "http://here", "text")
    assert done.text == (
        f"{plain.text}\n\nSources:\n"
        "[1] Guide, page 3: http://here/c%2F1\n"
        "[2] Guide, page 3 (not quoted word for word): http://here/c%2F2"
    )
    assert done.annotations == plain.annotations
    uncited = reply("At dawn.")
    assert finished(uncited, ASKED, "http://here", "text") == finished(uncited, ASKED, "http://here")


def test_open_webui_is_told_every_passage_in_the_order_of_its_number():
    text = reply("At nine.", (2, "Doors are “locked” at nine"))
    events = finished(text, ASKED, "http://here", "open_webui").events
    assert [event["type"] for event in events] == ["source", "source"]
    assert [event["data"]["document"] for event in events] == [[words] for words in ASKED.texts]
    sources = [event["data"]["metadata"][0]["source"] for event in events]
    assert sources == ["http://here/c%2F1", "http://here/c%2F2"]
    assert "secret" not in str(events)
    assert finished(text, ASKED, "http://here").events == ()
