"""The documentation site: strict, whole, and read without a request to anywhere."""

import http.server
import json
import re
import runpy
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from flows.cli.app import command

pytest.importorskip("zensical", reason="the extra `docs` is not installed: make docs")
pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed: make docs")

ROOT = Path(__file__).resolve().parents[2]
site = runpy.run_path(str(ROOT / ".ci" / "site.py"), run_name="site")


def small(folder: Path, text: str) -> int:
    (folder / "pages").mkdir()
    (folder / "pages" / "index.md").write_text(f"# Home\n\n{text}\n")
    (folder / "pages" / "other.md").write_text("# Other\n\n## Part\n\nWords.\n")
    return site["build"](folder, [{"Home": "index.md"}, {"Other": "other.md"}])


@pytest.mark.parametrize("text", ["See [it](nowhere.md).", "See [it](other.md#no-such-part)."])
@pytest.mark.slow
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path, text, capfd):
    assert small(tmp_path, text) != 0


@pytest.mark.slow
def test_a_sound_page_is_built(tmp_path):
    assert small(tmp_path, "See [it](other.md#part) and [elsewhere](https://example.org).") == 0
    assert "<h1" in (tmp_path / "site" / "index.html").read_text()


@pytest.mark.parametrize(
    "text",
    [
        '<img src="https://example.org/a.png">',
        '<script src="//example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>p { background: url(https://example.org/a.png) }</style>",
        '<pre class="mermaid"><code>a --> b</code></pre>',  # the theme's script would fetch Mermaid
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_named(tmp_path, text):
    (tmp_path / "page.html").write_text(f"<p>{text}</p>")
    [fault] = site["outside_loads"](tmp_path)
    assert fault.startswith("page.html would load ")


def test_a_link_that_a_reader_may_follow_loads_nothing(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org"><img src="a.png"></a><svg xmlns="http://w3.org">'
    )
    assert site["outside_loads"](tmp_path) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documentation")
    assert site["main"]([str(folder)]) == 0
    return folder / "site"


@pytest.mark.slow
def test_each_guide_verb_and_public_name_has_its_place(built):
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "changelog", "contributing"}
    assert guides <= {path.stem for path in built.glob("*.html")}
    for verb in command().registered_commands:
        page = (built / "verbs" / f"{verb.name.replace(' ', '-')}.html").read_text()
        assert "Usage: raft " in re.sub(r"<[^>]+>", "", page)
    for face in ("data", "retrieval", "jora_engine", "data.records"):
        page = (built / "api" / f"{face}.html").read_text()
        for stub in [ROOT / face.replace(".", "/") / "__init__.pyi"]:
            for name, module in site["_offered"](stub):
                assert f'id="{module}.{name}"' in page, (face, name)
    index = json.loads((built / "search.json").read_text())
    assert len(index["items"]) > 100


@pytest.mark.slow
def test_a_browser_that_reads_pages_asks_nobody_else(built, tmp_path):
    """By the browser's own log of requests, with scripts running."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(built))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        for number, page in enumerate(("index.html", "api/data.records.html", "verbs/plan.html")):
            log = tmp_path / f"{number}.json"
            flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
            flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
            flags += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'browser'}", f"--log-net-log={log}"]
            subprocess.run(
                [browser, *flags, "--virtual-time-budget=4000", "--dump-dom", here + page],
                check=True, capture_output=True, timeout=180,
            )  # fmt: skip
            events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
            asked = {e["url"] for e in events if "url" in e and str(e.get("initiator")) == here.rstrip("/")}
            assert any(url.endswith(".js") for url in asked)  # what the browser asks for itself has another initiator
            assert {url for url in asked if not url.startswith((here, "data:", "blob:"))} == set()
        server.shutdown()
