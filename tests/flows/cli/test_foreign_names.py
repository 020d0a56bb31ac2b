"""Names of hostile files on the terminal and in Prefect's pages: seen as text, obeyed by nobody."""

import io
import logging

import pytest
from rich.console import Console

from flows.cli.app import PlainFormatter, _failed
from flows.cli.output import Display, table
from raft_errors import RaftError
from tasks.build.events import Damaged, Finished, Progressed, Started, silent
from tasks.prefect import artifacts as pages
from tasks.store.manifest import FileEntry, Manifest

HOSTILE = "a\x1b[2J[red]b[/red]\u202ec\nd.md"
SEEN = "a\\x1b[2J[red]b[/red]\\u202ec\\nd.md"


def drawn(terminal: bool):
    out = io.StringIO()
    return out, Console(file=out, highlight=False, width=200, force_terminal=terminal, color_system=None)


def made(summary: str) -> Manifest:
    return Manifest(stage="ingest", key="k" * 32, digest="d" * 64, files=[], summary=summary)


def harmless(text: str) -> None:
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert SEEN in text


def test_lines_of_a_run_show_names_as_they_are_written(monkeypatch):
    out, console = drawn(terminal=False)
    display = Display(console)
    display(Finished(made(HOSTILE), cached=False))
    display(Damaged("ingest", HOSTILE))
    monkeypatch.setattr("flows.cli.output.LINE_SECONDS", 0.0)
    display(Progressed("ingest", 1, 2, HOSTILE))
    assert out.getvalue().count(SEEN) == 3
    harmless(out.getvalue())


def test_the_bar_of_a_terminal_shows_names_as_they_are_written():
    out, console = drawn(terminal=True)
    display = Display(console)
    display(Progressed("ingest", 1, 2, HOSTILE))
    display._bar.refresh()
    display.close()
    harmless(out.getvalue())


def test_a_table_and_an_error_show_names_as_they_are_written(capsys):
    out, console = drawn(terminal=False)
    console.print(table("", ("file", "why"), [(HOSTILE.replace("\n", "\\n"), "it is new")]))
    harmless(out.getvalue())
    _failed(RaftError(HOSTILE.replace("\n", "\\n")), as_json=False)
    harmless(capsys.readouterr().err)


def test_a_log_line_shows_no_terminal_command_and_no_secret():
    record = logging.LogRecord("x", logging.WARNING, "", 0, "at https://u:SECRET@h/a?sig=SECRET \x1b[2J", (), None)
    assert PlainFormatter("%(message)s").format(record) == "at https://h/a \\x1b[2J"


def test_prefects_pages_show_names_as_words(monkeypatch):
    picture = "![x](http://evil.example/a.png)"
    sent = []
    for kind in ("markdown", "table", "link", "progress"):
        monkeypatch.setattr(pages, f"create_{kind}_artifact", lambda *a, **k: sent.append((a, k)) or "id")
    monkeypatch.setattr(pages, "update_progress_artifact", lambda *a, **k: sent.append((a, k)))
    manifest = made(picture)
    manifest.metrics = {"n": 1}
    manifest.files = [FileEntry(path=f"{picture}|.txt", size=1, sha256="a" * 64)]
    pages.publish(manifest)
    reporter = pages.Pages(silent)
    reporter(Started("ingest"))
    reporter(Progressed("ingest", 1, 1, picture))
    assert "![x]" not in str(sent)
    assert r"!\[x\](http://evil.example/a.png)" in pages.summary(manifest)


def test_the_report_shows_names_as_words():
    from data.reports.page import render_page

    row = {"name": "<script>x</script>", "result": "![x](y)", "failed": True, "seconds": 1.0, "headline": {}}
    page = render_page("domains.html.jinja", title="<b>", rows=[{**row, "report": ""}])
    assert "<script>" not in page
    assert "<b>" not in page


@pytest.mark.slow
def test_a_search_shows_the_names_it_finds_as_they_are_written(project, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / HOSTILE.replace("/", "%")).write_text("# The mill\n\nA stone mill stands beside the river.\n")
    project.values["corpus"] = [str(docs)]
    project.write()
    project.raft("index", "--no-prefect")
    harmless(project.raft("search", "Where does the mill stand?").stdout.replace("red]b[%red", "red]b[/red"))
