"""What a person reads, and the citations in it."""

import itertools

from data.prompting.contract import CitedQuote, load_template, render_output
from retrieval.search import Citation
from serving.content import finished, growing
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
    content, annotations = finished(text, ASKED, "/v1/passages/faq")
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
    assert finished(text, ASKED, "") == (TEMPLATE.refusal, [])


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
        content, _ = finished(text, ASKED, "")
        assert all(later.startswith(sooner) for sooner, later in itertools.pairwise([*pieces, content]))
    assert growing(texts[0][:-4], TEMPLATE).startswith("On Monday")
