"""Where an answer's sources stand, for clients that read annotations and for those that drop them."""

import pytest
from tiny_server import TEXTS, events

from data.prompting.contract import CitedQuote, load_template, render_output

TEMPLATE = load_template("numbered")
QUESTION = [{"role": "user", "content": "On which Monday of a month are keys rotated, and when is the door locked?"}]
REPLY = render_output(
    "On Mondays, and at nine.",
    [
        CitedQuote(2, "locked at nine"),
        CitedQuote(1, "rotated on the first Monday"),
        CitedQuote(1, "rotated on Tuesdays"),
        CitedQuote(9, "nowhere"),
    ],
    template=TEMPLATE,
)


def ask(http, **options):
    return http.post("/v1/chat/completions", json={"model": "faq", "messages": QUESTION, **options})


class OpenWebUI:
    """A double of Open WebUI's reader of streams, by the rules that facts about it state: a top-level `event` of the
    kind `source` is a source; a `url_citation` is one whose passage is its title; the rest is text."""

    def __init__(self, stream: str) -> None:
        self.content, self.sources = "", []
        for value in events(stream)[:-1]:
            if event := value.get("event"):
                assert event["type"] == "source"
                self.sources.append(event["data"])
            for choice in value["choices"]:
                self.content += choice["delta"].get("content") or ""
                for one in choice["delta"].get("annotations") or []:
                    title, url = one["url_citation"]["title"], one["url_citation"]["url"]
                    source = {"source": {"name": title, "url": url}, "document": [title]}
                    self.sources.append({**source, "metadata": [{"source": url, "name": title}]})

    def opened(self, number: int) -> dict:
        """The source that `[number]` opens: they are counted by distinct `metadata.source`."""
        return list({one["metadata"][0]["source"]: one for one in self.sources}.values())[number - 1]


def test_by_default_citations_are_annotations_whose_links_open_the_passages(http, scripted):
    scripted(REPLY)
    message = ask(http).json()["choices"][0]["message"]
    assert [(one["passage"], one["verbatim"]) for one in message["annotations"]] == [(2, True), (1, True), (1, False)]
    for one in message["annotations"]:
        place = one["url_citation"]
        assert message["content"][place["start_index"] : place["end_index"]] == one["quote"]
        passage = http.get(place["url"]).json()  # absolute, as clients on other hosts need it
        assert (one["quote"] in passage["text"]) == one["verbatim"]
    *chunks, _ = events(ask(http, stream=True).text)
    joined = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    (annotations,) = [
        c["choices"][0]["delta"]["annotations"] for c in chunks if "annotations" in c["choices"][0]["delta"]
    ]
    assert (joined, annotations) == (message["content"], message["annotations"])
    assert not any("event" in chunk for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_as_text_they_reach_a_client_that_reads_content_alone(http, scripted, stream):
    scripted(REPLY)
    plain = ask(http).json()["choices"][0]["message"]["content"]
    reply = ask(http, sources="text", stream=stream)
    if stream:
        content = "".join(c["choices"][0]["delta"].get("content", "") for c in events(reply.text)[:-1])
    else:
        content = reply.json()["choices"][0]["message"]["content"]
    address = str(http.base_url).rstrip("/")
    assert content == (
        f"{plain}\n\nSources:\n"
        f"[1] Keys, page 3 (not quoted word for word): {address}/v1/passages/faq/keys-0\n"
        f"[2] Doors: {address}/v1/passages/faq/doors-0"
    )
    assert "secret" not in content


def test_open_webui_shows_the_passages_and_a_number_opens_the_right_one(http, scripted):
    scripted(REPLY)
    page = OpenWebUI(ask(http, stream=True, sources="open_webui").text)
    assert "[2]" in page.content
    assert "[1]" in page.content
    assert len(page.sources) == 2
    for number, title in ((1, "Keys"), (2, "Doors")):
        assert page.opened(number)["document"] == [TEXTS[title]]
    titles = OpenWebUI(ask(http, stream=True).text)
    assert titles.opened(1)["document"] != [TEXTS["Keys"]], "why the switch is there"


def test_a_server_may_have_another_place_by_default(served, http, scripted, monkeypatch):
    scripted(REPLY)
    monkeypatch.setattr(served.server.gateway, "_sources", "text")
    assert "Sources:" in ask(http).json()["choices"][0]["message"]["content"]
    assert "Sources:" not in ask(http, sources="annotations").json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("sources", ["annotations", "text", "open_webui"])
def test_a_refusal_has_no_sources_anywhere(http, scripted, sources):
    scripted(render_output(TEMPLATE.refusal, [CitedQuote(1, "rotated")], template=TEMPLATE))
    message = ask(http, sources=sources).json()["choices"][0]["message"]
    assert (message["content"], message["annotations"]) == (TEMPLATE.refusal, [])
    page = OpenWebUI(ask(http, sources=sources, stream=True).text)
    assert (page.content, page.sources) == (TEMPLATE.refusal, [])


def test_completions_and_responses_have_the_same_sources(http, scripted):
    scripted(REPLY)
    chat = ask(http, sources="text").json()["choices"][0]["message"]
    values = {"model": "faq", "sources": "text"}
    text = http.post("/v1/completions", json={**values, "prompt": QUESTION[0]["content"]}).json()["choices"][0]
    assert (text["text"], text["annotations"]) == (chat["content"], chat["annotations"])
    response = http.post("/v1/responses", json={**values, "input": QUESTION[0]["content"]}).json()
    (part,) = response["output"][0]["content"]
    assert part["text"] == chat["content"]
    assert [{**one} for one in part["annotations"]] == [
        {**{k: v for k, v in one.items() if k != "url_citation"}, **one["url_citation"]} for one in chat["annotations"]
    ]
    stream = http.post("/v1/responses", json={**values, "input": QUESTION[0]["content"], "stream": True}).text
    assert stream.count("event: response.output_text.annotation.added") == len(chat["annotations"])


def test_behind_a_proxy_that_speaks_tls_links_are_https(http, scripted):
    scripted(REPLY)
    reply = http.post(
        "/v1/chat/completions", json={"model": "faq", "messages": QUESTION}, headers={"x-forwarded-proto": "https"}
    )
    url = reply.json()["choices"][0]["message"]["annotations"][0]["url_citation"]["url"]
    assert url.startswith("https://127.0.0.1:")


TASKS = {
    "title": "### Task:\nGenerate a concise title.\n### Chat History:\n<chat_history>\nUSER: When?\n</chat_history>",
    "completion": "### Task:\nComplete.\n#### Example:\n<text>The sun</text>\n<type>General</type>\n<text>Wh</text>",
    "tags": "\n### Task:\nGib 1-3 Schlagworte.\n\n### Verlauf:\n<chat_history>\nUSER: Wann?\n</chat_history>\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_what_a_chat_page_asks_on_its_own_goes_to_the_base(http, task):
    messages = [{"role": "user", "content": TASKS[task]}]
    options = {"messages": messages, "max_tokens": 4, "ignore_eos": True, "temperature": 0}
    reply = ask(http, **options)
    assert (reply.json()["model"], reply.headers["x-raft-ignored"]) == ("base", "retrieval")
    base = ask(http, **{**options, "model": "base"}).json()
    assert reply.json()["choices"] == base["choices"]
    assert ask(http, **{**options, "model": "faq/raw"}).json()["model"] == "faq@2/raw", "who says raw gets it"


@pytest.mark.parametrize(
    "question",
    [
        "### Task: what is it?",
        "What does <chat_history></chat_history> mean in ### Task: prompts?",
        "### Task:\nRespond to the user query.\n<context>\n<source id='1'>Bread.</source>\n</context>\n\nWhat is it?",
    ],
)
def test_a_question_that_looks_a_little_like_it_is_a_question(http, question):
    reply = ask(http, messages=[{"role": "user", "content": question}], max_tokens=2)
    assert reply.json()["model"] == "faq@2"
