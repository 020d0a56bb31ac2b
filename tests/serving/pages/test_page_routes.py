"""The page as the server gives it, and the door for feedback: headers, hosts, keys, and what is taken and kept."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from tiny_server import TEXTS, events, listening

from data.prompting.contract import CitedQuote, load_template, render_output
from serving.pages import ground
from serving.schema import ChatRequest, read
from serving.state import Allowance
from serving.tenants import Key

FILES = Path(ground.__file__).parent
QUESTION = [{"role": "user", "content": "When is the north door locked, and when are the keys rotated?"}]
REPLY = render_output(
    "At nine.", [CitedQuote(1, "locked at nine"), CitedQuote(1, "locked at ten")], template=load_template("numbered")
)
SAID = {
    "model": "faq@2",
    "question": "When is the north door locked?",
    "answer": "At nine.",
    "verdict": "up",
    "quotes": ["locked at nine", "locked at ten"],
    "passages": ["keys-0", "doors-0"],
}


@pytest.fixture
def feedback(served):
    log = served.server.gateway.domains["faq"].feedback
    before = len(log.entries())
    return lambda: log.entries()[before:]


def test_every_page_and_file_has_the_headers_that_let_a_browser_load_nothing_else(http):
    page = http.get("/")
    assert page.status_code == 200
    linked = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
    assert len(linked) >= 4
    for answer in (page, *(http.get(url) for url in linked)):
        assert answer.status_code == 200, answer.url
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"


def test_what_is_shipped_holds_nothing_inline_and_nothing_from_elsewhere():
    for template in (FILES / "templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)|\|\s*safe|javascript:", text), template
    for file in [*(FILES / "templates").iterdir(), *(FILES / "static").iterdir()]:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|//[a-z]+\.[a-z]|innerHTML|outerHTML|insertAdjacentHTML|eval\(|localStorage", text
        )


@pytest.mark.parametrize("name", ["../ground.py", "..%2fground.py", "%2e%2e/ground.py", "ask.html", "none.js", ""])
def test_no_other_file_can_be_had(http, name):
    answer = http.get(f"/pages/static/{name}")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_the_page_needs_no_key_and_shows_nothing_for_which_one_is_needed(keyed):
    with httpx.Client(base_url=keyed.url) as http:
        page = http.get("/")
        assert page.status_code == http.get("/pages/static/ask.js").status_code == 200
        assert "faq" not in page.text
        assert 'data-keyed="yes"' in page.text
        assert http.get("/", headers={"host": "evil.example"}).status_code == 400
        for path in ("/v1/models", "/v1/passages/faq/keys-0", "/pages/feedback", "/pages/static/x/y"):
            assert http.get(path).status_code == 401, path
        assert http.post("/pages/feedback", json=SAID).status_code == 401


def test_passages_come_before_the_answer_and_again_with_their_quotes_marked(http, scripted):
    scripted(REPLY)
    raw = http.post(
        "/v1/chat/completions", json={"model": "faq", "messages": QUESTION, "stream": True, "sources": "passages"}
    )
    *chunks, _ = events(raw.text)
    kinds = ["text" if c["choices"][0]["delta"].get("content") else c.get("event", {}).get("type", "") for c in chunks]
    assert kinds[1:3] == ["passage", "passage"]
    assert kinds.index("text") == 3
    first, last = chunks[1]["event"]["data"], [c["event"]["data"] for c in chunks if c.get("event")][2]
    assert [segment["quotes"] for segment in first["segments"]] == [[]]
    assert first["number"] == last["number"] == 1
    assert (first["title"], first["source"], first["span"]) == ("Doors", "doors.md", [10, 10 + len(TEXTS["Doors"])])
    assert [s["text"] for s in last["segments"] if s["quotes"] == [1]] == ["locked at nine"]
    assert not [s for s in last["segments"] if 2 in s["quotes"]]  # not word for word
    (annotations,) = [
        c["choices"][0]["delta"]["annotations"] for c in chunks if "annotations" in c["choices"][0]["delta"]
    ]
    assert [one["verbatim"] for one in annotations] == [True, False]
    assert [c["event"]["data"] for c in chunks if c.get("event", {}).get("type") == "answer"] == [
        {"text": "At nine.", "refused": False}
    ]
    assert "secret" not in raw.text


def test_a_passage_says_where_it_stands_and_what_stands_around_it(http):
    passage = http.get("/v1/passages/faq/keys-0").json()
    assert (passage["text"], passage["page"], passage["span"]) == (TEXTS["Keys"], 3, [10, 10 + len(TEXTS["Keys"])])
    assert passage["source"] == "keys.md"


def test_neighbours_are_shown_without_the_words_they_share(served):
    towns = served.server.gateway.domains["towns"]
    first, second = sorted(towns.retriever.chunks.values(), key=lambda chunk: chunk.ordinal)
    chunk, before, after = towns.place(first.id)
    assert (chunk, before) == (first, "")
    assert after == "\n" + second.text
    assert towns.place(second.id)[1:] == (first.text + "\n", "")
    assert towns.place(second.id, lambda chunk_id: chunk_id != first.id)[1:] == ("", "")
    overlapping = dataclasses.replace(second, start=first.end - 5)
    chunks = {first.id: first, second.id: overlapping}
    domain = dataclasses.replace(towns, retriever=SimpleNamespace(chunks=chunks))
    assert domain.place(first.id)[2] == second.text[5:]
    assert domain.place(second.id)[1] == first.text[:-5]
    assert towns.place("unknown") is None


def test_the_base_beside_an_adapter_is_the_base_over_the_same_passages(http, served):
    body = {"messages": QUESTION, "max_tokens": 12, "ignore_eos": True}
    adapter, base = (
        http.post("/v1/chat/completions", json={"model": model, **body}).json() for model in ("faq", "faq@2/base")
    )
    assert (adapter["model"], base["model"]) == ("faq@2", "faq@2/base")
    assert base["usage"]["prompt_tokens"] == adapter["usage"]["prompt_tokens"]
    plans = {}
    for model in ("faq", "faq/base"):
        plans[model] = served.server.gateway.plan(read(ChatRequest, {"model": model, "messages": QUESTION}))
    assert plans["faq"].request.prompt == plans["faq/base"].request.prompt
    assert plans["faq"].request.adapter is not None
    assert plans["faq/base"].request.adapter is None
    for name in ("base/base", "faq/raw/base", "faq/base/raw", "faq/basis", "nobody/base"):
        assert http.post("/v1/chat/completions", json={"model": name, **body}).status_code == 404, name


def test_feedback_is_kept_with_what_the_server_itself_knows(http, feedback):
    answer = http.post("/pages/feedback", json={**SAID, "verdict": "down", "correction": " At ten. "})
    assert answer.status_code == 200
    (entry,) = feedback()
    assert answer.json() == {"id": entry.id, "state": "pending"}
    said = entry.feedback
    assert (said.origin, said.version, said.verdict, said.correction) == ("feedback", "faq@2", "down", "At ten.")
    assert said.quotes == ("locked at nine",)  # the other stands in no passage
    assert [passage.text for passage in said.passages] == [TEXTS["Doors"], TEXTS["Keys"]]  # the quoted one first


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "base"}, 400),
        ({"model": "faq@2/base"}, 400),
        ({"model": "faq/raw"}, 400),
        ({"model": "nobody"}, 404),
        ({"model": "towns"}, 404),
        ({"passages": ["keys-0", "of-another-corpus"]}, 400),
        ({"verdict": "sideways"}, 400),
        ({"question": "  "}, 400),
        ({"answer": ""}, 400),
        ({"correction": "x" * 4001}, 400),
        ({"passages": ["keys-0"] * 65}, 400),
        ({"origin": "user"}, 400),
        ({"correction": "At ten."}, 400),  # of an answer that is right
        ({"verdict": "down", "correction": " At nine. "}, 400),  # what it says is wrong
    ],
)
def test_other_feedback_is_refused_and_nothing_is_kept(http, feedback, change, status):
    answer = http.post("/pages/feedback", json={**SAID, **change})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert feedback() == []


def test_a_correction_of_a_right_answer_is_refused_by_name(http):
    error = http.post("/pages/feedback", json={**SAID, "correction": "At ten."}).json()["error"]
    assert error["param"] == "correction"
    assert "verdict down" in error["message"]


def test_a_caller_can_leave_so_much_in_an_hour_and_others_go_on(served, feedback, monkeypatch):
    monkeypatch.setattr(served.server, "opinions", Allowance(500, 3600.0))
    keys = ["a-key-of-somebody-01234", "a-key-of-somebody-56789"]
    with listening(served.server, keys) as door, httpx.Client(base_url=door.url) as http:
        codes = {}
        for key in keys:
            http.headers["authorization"] = f"Bearer {key}"
            answers = [http.post("/pages/feedback", json=SAID) for _ in range(5)]
            codes[key] = [answer.status_code for answer in answers]
            assert 3500 < int(answers[-1].headers["retry-after"]) <= 3600
            assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert codes[keys[0]] == codes[keys[1]] == sorted(codes[keys[0]])
    assert set(codes[keys[0]]) == {200, 429}
    assert len(feedback()) == 2 * codes[keys[0]].count(200)


def test_without_keys_another_name_is_no_other_caller(http, served, feedback, monkeypatch):
    monkeypatch.setattr(served.server, "opinions", Allowance(1, 3600.0))
    codes = [
        http.post("/pages/feedback", json=SAID, headers={"authorization": f"Bearer {name}"}).status_code
        for name in ("one", "two")
    ]
    assert codes == [200, 429]
    assert len(feedback()) == 1


def test_feedback_that_is_full_says_who_can_mend_it(http, feedback, monkeypatch):
    assert http.post("/pages/feedback", json=SAID).status_code == 200
    monkeypatch.setattr("tasks.adapters.feedback.MOST_BYTES", 1)
    answer = http.post("/pages/feedback", json=SAID)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "feedback_full")
    assert "review it" in answer.json()["error"]["message"]
    assert len(feedback()) == 1


def test_an_allowance_is_free_again_as_time_goes_by(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("serving.state.time.monotonic", lambda: clock.now)
    allowance = Allowance(10, 60.0)
    assert allowance.take("a", 99) == 0  # nothing else is there
    assert allowance.take("a", 1) == 60
    assert allowance.take("b", 4) == 0
    clock.now = 130.0
    assert allowance.take("b", 6) == 0
    assert allowance.take("b", 4) == 30
    assert allowance.take("b", 5) == 60
    clock.now = 160.0
    assert allowance.take("b", 4) == 0
    assert allowance.take("a", 10) == 0


def test_a_key_with_a_filter_can_neither_open_nor_name_what_it_may_not_see(served, feedback):
    key = Key("a-key-with-a-filter-0123", {"title": "Keys"})
    with listening(served.server, [key]) as door, httpx.Client(base_url=door.url) as http:
        http.headers["authorization"] = f"Bearer {key.text}"
        assert http.get("/v1/passages/faq/keys-0").status_code == 200
        assert http.get("/v1/passages/faq/doors-0").status_code == 404
        assert http.post("/pages/feedback", json=SAID).status_code == 400
        assert feedback() == []
        assert http.post("/pages/feedback", json={**SAID, "passages": ["keys-0"]}).status_code == 200
    (entry,) = feedback()
    assert entry.feedback.quotes == ()  # it stands in the other passage


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_pages_of_other_sites_can_say_nothing(http, feedback, headers):
    answer = http.post(
        "/pages/feedback",
        content=httpx.Request("POST", "http://x", json=SAID).content,
        headers={"content-type": "application/json", **headers},
    )
    assert answer.status_code in (400, 403, 415)
    assert feedback() == []


def test_this_server_s_own_page_and_programs_without_a_browser_may_speak(http, feedback):
    assert http.post("/pages/feedback", json=SAID, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert http.post("/pages/feedback", json=SAID).status_code == 200
    assert len(feedback()) == 2
