"""The page in a real browser: asked by keyboard, streamed, its quotes opened at their place, on any screen."""

import dataclasses
import time

import pytest
from tiny_server import KEY, TEXTS

from serving.forms.answer import data

pytestmark = pytest.mark.slow

QUESTION = "When is the north door locked, and when are the keys rotated?"
QUOTE = "locked at nine in the evening"
SCREENS = {
    "wide light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "wide dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone light": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
    "phone dark": {
        **{"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
        **{"color_scheme": "dark", "reduced_motion": "reduce"},
    },
    "narrow": {"viewport": {"width": 320, "height": 640}},
    "forced colours": {"viewport": {"width": 1280, "height": 900}, "forced_colors": "active"},
}


def test_by_keyboard_alone_a_question_is_asked_and_its_quote_opened(visit, prompter):
    prompter.says("The north door is| locked at nine.", (1, QUOTE), (1, "locked at ten"))
    one = visit()
    page = one.page
    one.ask(QUESTION)
    page.get_by_text("The north door is", exact=True).wait_for()  # it streams: the rest has not been said yet
    assert "locked at nine." not in page.locator(".words").inner_text()
    assert page.locator(".words").get_attribute("aria-busy") == "true"
    assert page.locator(".sources summary").count() == 2  # the passages are there before the answer is
    assert page.locator(".sources details[open]").count() == 0
    prompter.go_on()
    page.get_by_text("The north door is locked at nine.", exact=True).first.wait_for()
    page.get_by_text("Is this answer right?").wait_for()
    assert page.locator(".words").get_attribute("aria-busy") is None
    assert page.get_by_role("heading", level=3).first.inner_text().split() == ["Answer", "faq@2"]
    assert page.locator(".quotes li").all_inner_texts()[1].endswith("not word for word in the passage")
    assert page.locator(".sources mark").all_text_contents() == ["Quote 1: " + QUOTE]
    assert page.locator("#status").text_content() == "The north door is locked at nine. 2 quotes."
    one.tab_to("1: open passage 1, Doors")
    page.keyboard.press("Enter")
    reader = page.get_by_role("dialog", name="Doors")
    reader.wait_for()
    assert f"doors.md · characters 10 to {10 + len(TEXTS['Doors'])}" in page.locator("#reader-place").inner_text()
    assert page.locator("#reader .own").text_content().replace("Quote 1: ", "") == TEXTS["Doors"]
    assert page.locator("#reader mark").evaluate("(mark) => mark.lastChild.data") == QUOTE
    assert page.locator("#reader mark").evaluate(
        "(mark) => { const r = mark.getBoundingClientRect(); return r.top >= 0 && r.bottom <= innerHeight; }"
    )
    for _ in range(4):  # the focus stays in the sheet
        page.keyboard.press("Tab")
        assert page.evaluate(
            "() => document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    page.keyboard.press("Escape")
    reader.wait_for(state="hidden")
    assert one.focus().startswith("1: open passage 1")


def test_the_passage_opens_with_its_page_and_the_text_around_it(visit, prompter):
    prompter.says("On Mondays.", (2, "first Monday"))
    one = visit()
    one.ask(QUESTION)
    one.page.get_by_role("button", name="open passage 2").click()
    one.page.get_by_role("dialog", name="Keys").wait_for()
    assert "page 3" in one.page.locator("#reader-place").inner_text()
    one.page.get_by_role("button", name="Close").click()

    text = "Old mills turn near the town."
    prompter.says("Old mills turn.", (1, text), (2, text))  # whichever of the two passages it is
    one.page.get_by_label("Answered by").select_option("towns")
    one.page.get_by_role("textbox", name="Question").fill("Where do old mills turn near the town?")
    one.page.keyboard.press("Enter")
    one.page.locator("article").first.locator(".quotes li:not(:has(.doubt)) button").click()
    around = one.page.locator("#reader .around")
    around.filter(has_text="The harbour has a long bridge.").wait_for()
    assert one.page.locator("#reader .own").text_content().endswith(text)
    assert one.page.locator("#reader-place").inner_text() == f"characters 0 to {len(text)} · Guide › doc"


def test_a_passage_that_comes_late_says_nothing_of_the_one_that_is_open(visit, prompter):
    text, other = "Old mills turn near the town.", "The harbour has a long bridge."
    prompter.says("Old mills turn.", (1, text), (2, other), (1, other), (2, text))
    one = visit()
    late = []

    def hold(route):
        if late:
            route.continue_()
        late.append(route)

    one.page.route("**/v1/passages/**", hold)
    one.page.get_by_label("Answered by").select_option("towns")
    one.ask("Where do old mills turn near the town?")
    for number in (1, 2):
        one.page.get_by_role("button", name=f"open passage {number}").first.click()
        one.page.get_by_role("dialog").wait_for()
        if number == 1:
            one.page.get_by_role("button", name="Close").click()
    one.page.locator("#reader-place").get_by_text("Guide › doc").wait_for()
    with one.page.expect_response("**/v1/passages/**"):
        late[0].continue_()
    one.page.wait_for_timeout(200)
    assert one.page.locator("#reader-place").inner_text().count("Guide") == 1


def test_an_answer_that_breaks_off_is_not_shown_as_a_whole_one(visit, prompter):
    prompter.says("At nine.")
    one = visit()
    half = {"model": "faq@2", "choices": [{"index": 0, "delta": {"content": "At"}, "finish_reason": None}]}
    one.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=data(half)))
    one.ask(QUESTION)
    one.page.get_by_text("The answer broke off.").wait_for()
    assert one.page.get_by_role("button", name="Right").count() == 0


def test_the_models_are_those_of_the_api_and_the_base_stands_beside_on_request(visit, prompter):
    prompter.says("At nine.", base="The base has no idea.")
    one = visit()
    page = one.page
    page.get_by_label("Answered by").locator("option").first.wait_for(state="attached")
    assert page.get_by_label("Answered by").locator("option").all_inner_texts() == ["faq", "towns"]
    page.get_by_label("Base model beside it").check()
    one.page.get_by_role("textbox", name="Question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.get_by_text("The base has no idea.", exact=True).wait_for()
    titles = [title.split() for title in page.locator(".side h3").all_inner_texts()]
    assert titles == [["Answer", "faq@2"], ["Base", "model"]]
    assert "without the adapter" in page.locator(".side").nth(1).inner_text()
    posted = [r.post_data_json["model"] for r in one.requests if r.url.endswith("/v1/chat/completions")]
    assert posted == ["faq", "faq@2/base"]


def test_who_asks_before_the_models_are_known_is_answered_all_the_same(visit, prompter, served, monkeypatch):
    prompter.says("At nine.")
    names = served.server.gateway.names
    monkeypatch.setattr(served.server.gateway, "names", lambda: time.sleep(1) or names())
    one = visit()
    one.ask(QUESTION)
    one.page.get_by_text("At nine.", exact=True).first.wait_for()


def test_automatic_is_offered_first_where_the_server_can_choose(visit, prompter, served, monkeypatch):
    names = [*served.server.gateway.names(), "constructor", "auto"]  # a name that every object of a browser has
    monkeypatch.setattr(served.server.gateway, "names", lambda: names)
    one = visit()
    select = one.page.get_by_label("Answered by")
    select.locator("option").first.wait_for(state="attached")
    assert select.locator("option").all_inner_texts() == ["Automatic", "faq", "towns", "constructor"]
    assert select.input_value() == "auto"


@pytest.mark.parametrize("screen", SCREENS)
def test_every_state_of_the_page_passes_the_accessibility_check_on_every_screen(visit, prompter, screen):
    prompter.says("The north door is locked at nine.", (1, QUOTE), (2, "keys are rotated " * 12))
    one = visit(**SCREENS[screen])
    page = one.page
    page.get_by_label("Answered by").locator("option").first.wait_for(state="attached")
    states = {"empty": one.violations()}
    page.get_by_label("Base model beside it").check()
    one.ask(QUESTION)
    page.get_by_text("The base says so.", exact=True).wait_for()
    page.get_by_role("button", name="Wrong").click()
    states["answered"] = one.violations()
    assert not one.runs_over()
    page.get_by_role("button", name="Open in its document").first.click()
    page.get_by_role("dialog").wait_for()
    states["opened"] = one.violations()
    assert not one.runs_over()
    assert {name: told for name, told in states.items() if told} == {}


def test_targets_are_large_enough_to_touch(visit, prompter):
    prompter.says("At nine.", (1, QUOTE))
    one = visit(**SCREENS["phone light"])
    one.page.get_by_role("textbox", name="Question").fill(QUESTION)
    one.page.get_by_role("button", name="Ask", exact=True).tap()
    one.page.get_by_role("button", name="Right").wait_for()
    small = one.page.evaluate(
        """() => [...document.querySelectorAll('button, summary, select, a:not(.skip), label.tick')]
          .map((e) => [e.textContent.trim(), e.getBoundingClientRect()])
          .filter(([, r]) => r.width && (r.width < 24 || r.height < 24)).map(([t]) => t)"""
    )
    assert small == []


def test_a_correction_is_kept_for_review_and_thanked_for(visit, prompter, served):
    log = served.server.gateway.domains["faq"].feedback
    before = len(log.entries())
    prompter.says("At ten.", (1, QUOTE))
    one = visit()
    one.ask(QUESTION)
    one.page.get_by_role("button", name="Wrong").wait_for()
    one.tab_to("Wrong")
    one.page.keyboard.press("Enter")
    assert one.focus().startswith("correction-")
    one.page.keyboard.type("At nine.")
    one.tab_to("Send")
    one.page.keyboard.press("Enter")
    one.page.get_by_text("Thank you.").wait_for()
    assert one.focus().startswith("Thank you.")
    assert not one.page.get_by_role("button", name="Wrong").count()
    (entry,) = log.entries()[before:]
    said = entry.feedback
    assert (said.question, said.answer, said.correction, said.verdict) == (QUESTION, "At ten.", "At nine.", "down")
    assert (entry.state, said.version, said.quotes) == ("pending", "faq@2", (QUOTE,))


def test_feedback_that_is_not_kept_is_said_to_be_so(visit, prompter, served, monkeypatch):
    prompter.says("At nine.")
    one = visit(allowed=("404",))
    one.ask(QUESTION)
    one.page.get_by_role("button", name="Right").wait_for()
    domains = served.server.gateway.domains
    monkeypatch.setitem(domains, "faq", dataclasses.replace(domains["faq"], feedback=None))
    one.page.get_by_role("button", name="Right").click()
    one.page.get_by_text("Not kept: This server keeps no feedback").wait_for()
    assert one.page.get_by_role("button", name="Right").count() == 1


def test_whatever_was_written_is_shown_as_text(visit, prompter):
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"
    prompter.says(f"{hostile} javascript:alert(3)", (1, QUOTE), (2, hostile))
    one = visit()
    one.ask(f"{QUESTION} {hostile}")
    one.page.get_by_text("javascript:alert(3)").first.wait_for()
    assert hostile in one.page.locator("h2").first.inner_text()
    assert one.page.locator("main img, main script, main a").count() == 0
    assert one.page.title() == "Ask · raft"


def test_an_answer_can_be_stopped_and_the_next_one_asked(visit, prompter):
    prompter.says("The north| door.")
    one = visit()
    one.ask(QUESTION)
    one.page.get_by_text("The north", exact=True).wait_for()
    one.tab_to("stop")
    assert not one.page.get_by_role("button", name="Ask", exact=True).count()
    one.page.keyboard.press("Enter")
    one.page.get_by_text("Stopped.", exact=True).first.wait_for()
    assert one.focus() == "question"
    prompter.go_on()
    prompter.says("At nine.")
    one.page.keyboard.press("Enter")
    one.page.get_by_text("At nine.", exact=True).first.wait_for()
    assert one.page.locator("article").count() == 2
    assert one.page.locator("article").first.locator(".words").inner_text() == "At nine."  # the newest is on top


def test_what_the_server_refuses_and_that_it_is_gone_are_said_in_words(visit, prompter, served, monkeypatch):
    prompter.says("At nine.")
    one = visit(allowed=("400", "ERR_INTERNET_DISCONNECTED"))
    one.page.get_by_role("textbox", name="Question").fill(QUESTION + " and so on" * 300)
    one.page.keyboard.press("Enter")
    problem = one.page.locator("article .problem").first
    problem.wait_for()
    assert "limit" in problem.inner_text()
    one.page.context.set_offline(True)
    one.page.get_by_role("textbox", name="Question").fill(QUESTION)
    one.page.keyboard.press("Enter")
    one.page.get_by_text("The server cannot be reached.").wait_for()


def test_a_key_is_asked_for_and_kept_in_memory_only(visit, prompter, keyed):
    prompter.says("At nine.", (1, QUOTE))
    one = visit(keyed.url, allowed=("401",))
    page = one.page
    page.get_by_role("dialog", name="This server asks for a key").wait_for()
    assert one.focus() == "key"
    assert one.violations() == []
    page.keyboard.type("a-wrong-key-0123456789")
    page.keyboard.press("Enter")
    page.get_by_text("The server does not know this key.").wait_for()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for(state="hidden")
    assert one.focus() == "question"
    one.ask(QUESTION)
    page.get_by_text("At nine.", exact=True).first.wait_for()
    page.get_by_role("button", name="Open in its document").first.click()  # the passage asks for the key too
    page.locator("#reader mark").wait_for()
    assert not [r.url for r in one.requests if KEY in r.url]
    held = page.evaluate(
        "() => [document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]"
    )
    assert held == ["", "{}", "{}"]
    assert KEY not in page.content()
    assert page.evaluate("() => document.getElementById('key').value") == ""
    page.reload()
    page.get_by_role("dialog", name="This server asks for a key").wait_for()
