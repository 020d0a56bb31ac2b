"""Builds the documentation site: README, guides, a page a verb, and the names that the libraries offer.

    python .ci/site.py [FOLDER]     # or `make docs`, into build/documentation/site

Everything is written anew from its source: guides from docs/, verbs from their `--help`, names from their docstrings.
A broken link or anchor ends the build. The pages load nothing from elsewhere: fonts are the reader's, scripts and the
search index lie beside them.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("data", "retrieval", "jora_engine")
ABOUT = {"CHANGELOG.md": "Changes", "CONTRIBUTING.md": "Contributing"}
WIDTH = 80  # characters of a help text


def main(arguments: list[str]) -> int:
    folder = Path(*arguments) if arguments else ROOT / "build" / "documentation"
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    pages.mkdir(parents=True)
    guides = _guides(pages)
    verbs = _write_verbs(pages / "verbs")
    faces = _write_faces(pages / "api")
    navigation = [
        {"Home": "index.md"},
        {"Guides": guides},
        {"Verbs": [{f"raft {name}": f"verbs/{_slug(name)}.md"} for name in verbs]},
        {"Python": [{face: f"api/{face}.md"} for face in faces]},
        {"About": [{title: name.lower()} for name, title in ABOUT.items()]},
    ]
    return build(folder, navigation)


def build(folder: Path, navigation: list[Any]) -> int:
    """Builds `folder/pages` into `folder/site`.

    Returns: 0, or 1 where a link, an anchor or a docstring is wrong, or a page would load something from elsewhere.
    """
    configuration = folder / "mkdocs.yml"
    configuration.write_text(yaml.safe_dump(_configuration(navigation), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "zensical", "build", "--strict", "--clean", "-f", str(configuration)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    faults = [line for line in done.stdout.splitlines() if line.startswith("griffe: ")]  # not faults to Zensical
    faults += [] if done.returncode else outside_loads(folder / "site")
    sys.stdout.write(done.stdout + "".join(f"{fault}\n" for fault in faults if fault not in done.stdout))
    return 1 if faults else done.returncode


_LOADS = re.compile(
    r"""<(?!a\b)[a-z]+\b[^>]*?\b(?:src|href|srcset|poster|data|action)=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|url\(\s*["']?(?:https?:)?//[^)]+|@import\s+["'](?:https?:)?//[^"']+""",
    re.IGNORECASE,
)
_FETCHERS = re.compile(r"""class=["'][^"']*\b(?:mermaid|glightbox|pyodide)\b""")
"""Elements for which the theme's script would fetch a library from elsewhere; without one it does not."""


def outside_loads(site: Path) -> list[str]:
    """Where a page or a style would load something from another place when it is read, a line each."""
    faults = []
    for path in sorted(p for p in site.rglob("*") if p.suffix in (".html", ".css", ".svg")):
        text = path.read_text(encoding="utf-8")
        matches = [*_LOADS.finditer(text), *(_FETCHERS.finditer(text) if path.suffix == ".html" else ())]
        faults += [f"{path.relative_to(site)} would load {match[0]}" for match in matches]
    return faults


def _configuration(navigation: list[Any]) -> dict[str, Any]:
    from raft_version import VERSION

    def scheme(name: str, other: str, icon: str) -> dict[str, Any]:
        toggle = {"icon": f"lucide/{icon}", "name": f"Switch to {other}"}
        media = f"(prefers-color-scheme: {'dark' if name == 'slate' else 'light'})"
        return {"media": media, "scheme": name, "toggle": toggle}

    options = {
        "docstring_style": "google",
        "heading_level": 2,
        "show_root_heading": True,
        "show_root_full_path": False,
        "show_source": False,
        "members_order": "source",
        "separate_signature": True,
        "show_signature_annotations": True,
        "line_length": WIDTH,
    }
    return {
        "site_name": f"jora-raft {VERSION}",
        "docs_dir": "pages",
        "site_dir": "site",
        "use_directory_urls": False,  # pages open from a disk too
        "theme": {
            "name": "material",
            "variant": "classic",
            "font": False,  # else they come from Google
            "features": ["navigation.indexes", "navigation.footer", "content.code.copy", "toc.follow"],
            "palette": [scheme("default", "dark", "sun"), scheme("slate", "light", "moon")],
        },
        "nav": navigation,
        "validation": {"links": {"anchors": "warn", "not_found": "warn", "unrecognized_links": "warn"}},
        "markdown_extensions": [
            "tables",
            "attr_list",
            {"toc": {"permalink": True}},
            "pymdownx.superfences",
            {"pymdownx.highlight": {"anchor_linenums": False}},
        ],
        "plugins": [
            "search",
            {"mkdocstrings": {"handlers": {"python": {"paths": [str(ROOT)], "options": options}}}},
        ],
        "extra": {"generator": False},
    }


# ---- README, guides and what stands beside them


def _guides(pages: Path) -> list[dict[str, str]]:
    """Copies them with links that fit; returns title and page of each guide, in README's order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("README.md", *ABOUT):
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        for other in ABOUT:
            text = text.replace(f"]({other})", f"]({other.lower()})")
        target = "index.md" if name == "README.md" else name.lower()
        (pages / target).write_text(_drawn(text), encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for other in ABOUT:
            text = text.replace(f"](../{other})", f"]({other.lower()})")
        (pages / path.name).write_text(text, encoding="utf-8")
    listed = re.findall(r"\[([^\]]+)\]\(docs/(\w+\.md)\)", readme.split("\n## Guides\n")[1].split("\n## ")[0])
    missing = {path.name for path in (ROOT / "docs").glob("*.md")} - {page for _, page in listed}
    if missing:
        raise SystemExit(f"README's Guides do not name {', '.join(sorted(missing))}")
    return [{title: page} for title, page in listed]


def _drawn(text: str) -> str:
    """Mermaid's diagrams as pictures: the script that draws them would be fetched from elsewhere."""
    draw = runpy.run_path(str(Path(__file__).with_name("diagram.py")))["draw"]
    return re.sub(r"```mermaid\n(.*?)```", lambda match: f"<div>{draw(match[1])}</div>", text, flags=re.DOTALL)


# ---- verbs


def _write_verbs(folder: Path) -> list[str]:
    """A page a verb, with what `raft VERB --help` prints."""
    import typer.main
    from typer.testing import CliRunner

    from flows.cli.app import command

    folder.mkdir()
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = str(WIDTH)
    names = list(typer.main.get_command(command()).commands)  # type: ignore[attr-defined]
    for name in names:
        done = CliRunner().invoke(command(), [name, "--help"], prog_name="raft")
        if done.exit_code:
            raise SystemExit(f"raft {name} --help ended with {done.exit_code}")
        page = f"# raft {name}\n\n```text\n{done.stdout.strip()}\n```\n"
        (folder / f"{_slug(name)}.md").write_text(page, encoding="utf-8")
    return names


def _slug(verb: str) -> str:
    return verb.replace(" ", "-")


# ---- Python names


def _write_faces(folder: Path) -> list[str]:
    """A page a library and a room, with the docstrings of the names that it offers."""
    folder.mkdir()
    stubs = sorted(path for top in LIBRARIES for path in (ROOT / top).rglob("__init__.pyi"))
    for stub in stubs:
        face = _face(stub)
        lead = ast.get_docstring(ast.parse((stub.parent / "__init__.py").read_text(encoding="utf-8"))) or ""
        entries = [f"::: {module}.{name}" for name, module in _offered(stub)]
        (folder / f"{face}.md").write_text("\n\n".join([f"# {face}", lead, *entries]) + "\n", encoding="utf-8")
    return [_face(stub) for stub in stubs]


def _face(stub: Path) -> str:
    return ".".join(stub.parent.relative_to(ROOT).parts)


def _offered(stub: Path) -> Iterator[tuple[str, str]]:
    """(name, module that defines it), as the stub beside a face says."""
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, str(node.module)) for alias in node.names)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
