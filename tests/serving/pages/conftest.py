"""A real browser, and a model that speaks when it is told to."""

import contextlib
import importlib.resources
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator

import pytest

from data.prompting.contract import CitedQuote, load_template, render_output
from jora_engine.generation.requests import Completion, Job

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
TEMPLATE = load_template("numbered")


@pytest.fixture(scope="module")  # its event loop would be in the way of other files' `asyncio.run`
def chromium() -> Iterator:
    """Chromium of this machine. Without one the tests are skipped, and fail where RAFT_BROWSER says `required`."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    packages = ("playwright", "axe_playwright_python")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    missing += [] if program else ["chromium"]
    if missing:
        words = (
            f"the page is not tried in a browser: {', '.join(missing)} is missing; `.ci/browser` installs Chromium, "
        )
        words += "`make setup` the rest"
        (pytest.fail if os.environ.get("RAFT_BROWSER") == "required" else pytest.skip)(words)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=False, args=list(FLAGS))
        yield browser
        browser.close()


class Visit:
    """A page in a browser, with everything it asked for and everything its console said."""

    def __init__(self, context, url: str) -> None:
        self.url, self.requests, self.console = url, [], []
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"error: {error}"))
        self.page.goto(url)

    def focus(self) -> str:
        """What has the focus: its id, or its text."""
        return self.page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()")

    def tab_to(self, target: str, most: int = 40, key: str = "Tab") -> None:
        """Presses Tab until something has the focus whose id or text begins so."""
        for _ in range(most):
            if self.focus().startswith(target):
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"{target!r} cannot be reached with {key}; the focus is on {self.focus()!r}")

    def ask(self, question: str) -> None:
        """Asks with the keyboard."""
        self.tab_to("question")
        self.page.keyboard.type(question)
        self.page.keyboard.press("Enter")

    def violations(self) -> list[str]:
        """What the automatic check of accessibility finds."""
        source = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        self.page.evaluate(source)  # not a script in the page, which the policy refuses
        found = self.page.evaluate("(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})", RULES)
        return [f"{one['id']}: {node['html'][:160]}" for one in found["violations"] for node in one["nodes"]]

    def runs_over(self) -> bool:
        """Whether it has to be scrolled sideways."""
        return self.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")


@pytest.fixture
def visit(chromium, served):
    """`visit(url, **settings of the browser's context)`; afterwards nothing may have come from elsewhere, and the
    console must be empty."""
    with contextlib.ExitStack() as stack:
        visits = []

        def go(url: str = served.url, allowed: tuple[str, ...] = (), **settings) -> Visit:
            context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
            stack.callback(context.close)
            visits.append((Visit(context, url), allowed))
            return visits[-1][0]

        yield go
        for one, allowed in visits:
            outside = [r.url for r in one.requests if not r.url.startswith(f"{one.url}/")]
            assert not outside
            told = [line for line in one.console if not any(words in line for words in allowed)]
            assert not told


class Prompter:
    """What the model says: to the adapter's requests one text, to the base's another, in pieces of seven characters; at
    `|` it waits until it may go on."""

    def __init__(self) -> None:
        self.adapter, self.base = "", ""
        self._gate = threading.Event()
        self._stopped = threading.Event()
        self.cancelled: list = []

    def says(self, answer: str, *quotes: tuple[int, str], base: str = "The base says so.") -> None:
        cited = [CitedQuote(number, words) for number, words in quotes]
        self.adapter = render_output(answer, cited, template=TEMPLATE)
        self.base = render_output(base, [], template=TEMPLATE)
        self._gate.clear()

    def go_on(self) -> None:
        self._gate.set()

    def end(self) -> None:
        self._stopped.set()
        self._gate.set()

    def submit(self, request, on_text, on_done):
        job, script = Job(request), self.adapter if request.adapter else self.base
        text = script.replace("|", "")
        stops = {script.index("|")} if "|" in script else set()

        def write():
            at = 0
            while on_text and at < len(text) and not self._stopped.is_set():
                ahead = next((stop for stop in stops if at < stop <= at + 7), None)
                at = ahead or min(at + 7, len(text))
                on_text(text[:at])
                if ahead:
                    self._gate.wait(30)
            job.completion = Completion(text, tuple(range(5)), "stop")
            on_done(job)

        threading.Thread(target=write, daemon=True).start()
        return job


@pytest.fixture
def prompter(served, monkeypatch) -> Iterator[Prompter]:
    one = Prompter()
    monkeypatch.setattr(served.server.loop, "submit", one.submit)
    monkeypatch.setattr(served.server.loop, "cancel", one.cancelled.append)
    yield one
    one.end()
