"""How much of an article and how little of the rest of its page is read: word precision, recall and F1.

    python benchmarks/article_extraction.py [--quick] [--json] [--part reporting] [--data ../shared/data]

The pages are made here, so that what belongs to the article is known: layouts of news, blog and reference pages, each
with menus, teasers, comments or banners of several sizes around articles of 40 to 900 words, and each once with
telling class names and once with classes as build tools make them up. The prose is SQuAD's from the shared data where
it is there, else the Python reference's. trafilatura alone reads the same pages.

Two parts that share neither a layout nor a draw: the reader was built by looking at the ten layouts of `tuning`; the
five of `reporting` were written after it, and only their figure is quoted. One thing was changed because of them: lists
that end an article, which the recipe showed to be lost, are read. Who changes the reader looks at `--part tuning`.
Exits 1 where ours falls behind trafilatura, or below the part's goal.
"""

import argparse
import gzip
import hashlib
import html
import json
import os
import random
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from goals import Goals, missed

from data.loading.formats.html import render_html

KEYS = """
    part ours/pages ours/precision ours/recall ours/f1 ours/f1_by_layout trafilatura/f1 trafilatura/precision
    trafilatura/recall ahead_of_trafilatura"""
GOALS: Goals = {"ours/f1": (">=", 0.8), "ahead_of_trafilatura": (">=", 0.0)}
MENU_NAMES = """
Home News World Business Markets Politics Science Health Sports Culture Travel Weather Video Podcasts Opinion
Jobs Cars Homes Shop Events Archive Contact Imprint Privacy Terms Advertise Subscribe Newsletter Login Register Search
Letters Obituaries Puzzles Recipes Fashion Music Film Books Games Local Traffic Schools Photos Schedules"""
MENU = MENU_NAMES.split()
TEASERS = (
    "Read more", "You may also like", "Most read", "Recommended for you", "More from this section", "Trending now",
    "Related stories", "Editor's picks", "Latest news",
)  # fmt: skip
BANNER = (
    "We and our partners use cookies to store and access information on your device, to measure how our pages are read "
    "and to show you advertisements that fit. You can change your choice at any time in the settings of this page."
)
Article = tuple[str, str]
"""HTML of the article, and the words that belong to it."""


class Press:
    """Draws prose and frames; the same seed draws the same pages."""

    def __init__(self, paragraphs: list[str], seed: int) -> None:
        self.draw, self.paragraphs = random.Random(seed), paragraphs

    def sentences(self, count: int) -> str:
        parts = re.split(r"(?<=[.!?])\s+", self.draw.choice(self.paragraphs))
        return " ".join(parts[:count])

    def prose(self, words: int) -> list[str]:
        paragraphs: list[str] = []
        while sum(len(p.split()) for p in paragraphs) < words:
            paragraphs.append(self.sentences(self.draw.choice((1, 2, 3))))
        return paragraphs

    def links(self, count: int, words: int = 1) -> str:
        names = (" ".join(self.draw.choice(MENU) for _ in range(words)) for _ in range(count))
        return "".join(f'<li><a href="/{n}">{name}</a></li>' for n, name in enumerate(names))

    def headline(self) -> str:
        return " ".join(self.sentences(1).split()[:8]).rstrip(".,")

    def teasers(self, count: int) -> str:
        cards = (
            f'<div class="card"><a href="/{n}"><img src="t.jpg"><h3>{html.escape(self.headline())}</h3></a>'
            f"<p>{html.escape(self.sentences(1))}</p></div>"
            for n in range(count)
        )
        return f"<div class='grid'><h2>{self.draw.choice(TEASERS)}</h2>{''.join(cards)}</div>"

    def comments(self, count: int) -> str:
        posts = (
            f'<li class="comment"><div class="by">reader{n} 3 hours ago</div><p>{html.escape(self.sentences(2))}</p>'
            "<a href='#'>Reply</a> <a href='#'>Report</a></li>"
            for n in range(count)
        )
        return f'<div id="comments"><h3>{count} comments</h3><ol>{"".join(posts)}</ol></div>'

    def article(self, words: int, *, rich: bool = False) -> Article:
        title, parts = self.headline(), []
        for number, paragraph in enumerate(self.prose(words)):
            if rich and number % 4 == 3:
                parts.append(("h2", self.headline()))
            parts.append(("p", paragraph))
        body = "".join(f"<{tag}>{html.escape(text)}</{tag}>" for tag, text in parts)
        words_of = " ".join([title, *(text for _, text in parts)])
        if rich:
            items = [self.headline() for _ in range(4)]
            cells = [[str(self.draw.randint(1, 999)) for _ in range(3)] for _ in range(4)]
            body += "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
            body += "<table><tr><th>year</th><th>low</th><th>high</th></tr>"
            body += "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in cells) + "</table>"
            words_of += " ".join([" ", *items, "year low high", *(" ".join(row) for row in cells)])
        return f"<h1>{html.escape(title)}</h1>{body}", words_of


def page(body: str) -> str:
    return f"<!DOCTYPE html><html><head><title>A page</title></head><body>{body}</body></html>"


def plain_news(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    return page(
        f"<nav><ul>{press.links(frame)}</ul></nav><main><article>{article}</article></main>"
        f"<aside>{press.teasers(4)}</aside><footer><ul>{press.links(10)}</ul></footer>"
    ), truth


def div_menus(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    return page(
        f'<div class="top"><div class="mega"><ul>{press.links(frame * 4, 2)}</ul></div></div>'
        f'<div id="content"><div class="story-body">{article}</div></div>'
        f'<div class="bottom"><ul>{press.links(frame)}</ul><p>Copyright by the publisher. All rights '
        "reserved.</p></div>"
    ), truth


def teaser_walls(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    return page(
        f'<div class="header"><ul>{press.links(20)}</ul></div><div class="story">{article}</div>'
        f'<div class="related">{press.teasers(frame)}</div><div class="more">{press.teasers(frame)}</div>'
    ), truth


def long_comments(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    return page(
        f'<header><ul>{press.links(15)}</ul></header><div class="post"><div class="entry-content">{article}</div></div>'
        f'{press.comments(frame)}<div class="sidebar"><ul>{press.links(20, 2)}</ul></div>'
    ), truth


def banners(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    return page(
        f'<div class="cookie-consent"><p>{BANNER}</p><button>Accept</button></div><ul class="nav">{press.links(frame)}'
        f'</ul><div class="content">{article}</div><div class="newsletter"><h3>Never miss a story</h3><p>Sign up for '
        f'our letter.</p><form><input><button>Go</button></form></div><div class="legal"><p>{BANNER}</p></div>'
    ), truth


def links_inside(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    paragraphs = article.split("</p>")
    middle = len(paragraphs) // 2
    related = f'<div class="inline-related"><b>Read more</b><ul>{press.links(frame // 8, 6)}</ul></div>'
    body = "</p>".join(paragraphs[:middle]) + "</p>" + related + "</p>".join(paragraphs[middle:])
    return page(f"<nav><ul>{press.links(frame)}</ul></nav><div class='article'>{body}</div>{press.teasers(3)}"), truth


def table_layout(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words)
    links = "".join(f"<a href='{n}'>{press.draw.choice(MENU)}</a><br>" for n in range(frame))
    return page(
        f"<table width='100%'><tr><td colspan=2><a href='/'>Home</a></td></tr><tr><td width=150>{links}</td>"
        f"<td>{article}</td></tr><tr><td colspan=2>Copyright by the publisher</td></tr></table>"
    ), truth


def rich_blog(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words, rich=True)
    return page(
        f'<div class="site-header"><ul>{press.links(frame)}</ul></div><div class="post-body">{article}</div>'
        f'<div class="tags"><a href="/a">tag one</a> <a href="/b">tag two</a></div>{press.comments(3)}'
    ), truth


def reference(press: Press, words: int, frame: int) -> Article:
    names = [f"set_{press.draw.choice(MENU).lower()}_{n}" for n in range(max(3, words // 30))]
    entries = [(f"{name}(value, limit={n})", press.sentences(1)) for n, name in enumerate(names)]
    codes = [f"{name}(3)  # returns {n}" for n, name in enumerate(names)]
    title = "Module " + press.draw.choice(MENU).lower()
    body = "".join(
        f"<dl><dt><code>{html.escape(name)}</code></dt><dd><p>{html.escape(text)}</p><pre>{html.escape(code)}</pre></dd></dl>"
        for (name, text), code in zip(entries, codes)
    )
    truth = " ".join([title, *(f"{name} {text} {code}" for (name, text), code in zip(entries, codes))])
    toc = "".join(f'<li><a href="#{name}">{name}</a></li>' for name in names)
    return page(
        f'<div class="sphinxsidebar"><ul>{toc}</ul><ul>{press.links(frame)}</ul></div>'
        f'<div class="body" role="main"><h1>{title}</h1>{body}</div><div class="footer">Made with a tool</div>'
    ), truth


def one_paragraph(press: Press, words: int, frame: int) -> Article:
    title, text = press.headline(), press.sentences(2)
    return page(
        f'<div class="masthead"><ul>{press.links(frame * 3)}</ul></div><div class="wrap"><div class="col8"><h1>'
        f"{html.escape(title)}</h1><div class='date'>12 May</div><p>{html.escape(text)}</p></div><div class='col4'>"
        f"<ul>{press.links(frame, 5)}</ul></div></div><div class='foot'><ul>{press.links(frame)}</ul></div>"
    ), f"{title} {text}"


def documentation(press: Press, words: int, frame: int) -> Article:
    title, parts = press.headline(), press.prose(words)
    code = f"{press.draw.choice(MENU).lower()}_{words} = open_all({frame})"
    body = "".join(f"<p>{html.escape(part)}</p>" for part in parts)
    guides = (f"<a href='/{n}'>{press.draw.choice(MENU)} guide</a><ul>{press.links(3)}</ul>" for n in range(frame // 4))
    tree = "".join(f"<li>{guide}</li>" for guide in guides)
    return page(
        '<div class="crumbs"><a href="/">Docs</a> / <a href="/g">Guides</a></div>'
        f'<div class="tree"><ul>{tree}</ul></div>'
        f'<div class="page"><h1>{html.escape(title)}</h1>{body}<pre><code>{html.escape(code)}</code></pre></div>'
        f'<div class="on-this-page"><b>On this page</b><ul>{press.links(6, 3)}</ul></div><div class="feedback">Was '
        "this page helpful? <button>Yes</button> <button>No</button></div><div class='turn'><a href='/p'>Previous</a> "
        "<a href='/n'>Next</a></div>"
    ), " ".join([title, *parts, code])


def recipe(press: Press, words: int, frame: int) -> Article:
    title, parts = press.headline(), press.prose(words // 2)
    lists = [[press.headline() for _ in range(3 + words // 150)], press.prose(words // 2)]
    body = "".join(f"<p>{html.escape(part)}</p>" for part in parts)
    things, steps = ("".join(f"<li>{html.escape(item)}</li>" for item in items) for items in lists)
    stars = "".join(f"<li>reader{n}: {'five' if n % 2 else 'four'} stars</li>" for n in range(frame // 4))
    return page(
        f'<ul class="bar">{press.links(frame)}</ul><div class="recipe"><h1>{html.escape(title)}</h1>{body}'
        f"<h2>What you need</h2><ul>{things}</ul><h2>Steps</h2><ol>{steps}</ol></div>"
        f'<div class="ratings"><h3>Ratings</h3><ul>{stars}</ul></div>{press.teasers(frame // 6)}'
    ), " ".join([title, *parts, "What you need", *lists[0], "Steps", *lists[1]])


def line_breaks(press: Press, words: int, frame: int) -> Article:
    title, parts = press.headline(), press.prose(words)
    text = "<br><br>".join(html.escape(part) for part in parts)
    return page(
        f'<div class="left">{"".join(f"<div><a href=/{n}>{press.draw.choice(MENU)}</a></div>" for n in range(frame))}'
        f'</div><div class="middle"><b>{html.escape(title)}</b><br><br>{text}</div>'
        f'<div class="right"><div>{html.escape(BANNER)}</div><ul>{press.links(frame // 2, 3)}</ul></div>'
    ), " ".join([title, *parts])


def shared_between(press: Press, words: int, frame: int) -> Article:
    title, parts = press.headline(), press.prose(words)
    share = '<div class="share"><a href="/f">Share</a> <a href="/m">Mail</a> <a href="/c">Copy link</a></div>'
    advert = "<div class='slot'><span>Advertisement</span><a href='/ad'>Shop the spring sale now</a></div>"
    body = "".join(
        f"<p>{html.escape(part)}</p>{share if n % 4 == 1 else advert if n % 4 == 3 else ''}"
        for n, part in enumerate(parts)
    )
    return page(
        f"<header><ul>{press.links(frame)}</ul></header><section class='text'><h1>{html.escape(title)}</h1>{body}"
        f"</section><section class='next'>{press.teasers(frame // 4)}</section><footer><p>Copyright</p></footer>"
    ), " ".join([title, *parts])


def article_last(press: Press, words: int, frame: int) -> Article:
    article, truth = press.article(words, rich=True)
    weather = "".join(f"<td>{day} {press.draw.randint(1, 30)} degrees</td>" for day in ("Mon", "Tue", "Wed", "Thu"))
    read = "".join(f"<li><a href='/{n}'>{html.escape(press.headline())}</a></li>" for n in range(frame // 2))
    return page(
        f"<div class='weather'><table><tr>{weather}</tr></table></div><div class='most-read'><h2>Most read</h2>"
        f"<ol>{read}</ol></div>{press.teasers(frame // 6)}<div class='nav'><ul>{press.links(frame)}</ul></div>"
        f"<div class='paper'>{article}</div><div class='small'>{html.escape(BANNER)}</div>"
    ), truth


TUNING: tuple[Callable[[Press, int, int], Article], ...] = (
    plain_news, div_menus, teaser_walls, long_comments, banners, links_inside, table_layout, rich_blog, reference,
    one_paragraph,
)  # fmt: skip
REPORTING = (documentation, recipe, line_breaks, shared_between, article_last)
PARTS = {"tuning": (TUNING, 0), "reporting": (REPORTING, 1000)}
"""Layouts and the first seed of each part."""


def nameless(raw: str) -> str:
    """The page with classes and ids that tell nothing."""
    return re.sub(r"(class|id)=(['\"])([^'\"]*)\2", lambda m: f'{m[1]}="c{hash_of(m[3])}"', raw)


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def score(read: str, truth: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of words as multisets."""
    mine, theirs = Counter(words(read)), Counter(words(truth))
    common = (mine & theirs).total()
    precision, recall = common / max(1, mine.total()), common / theirs.total()
    return precision, recall, 2 * common / max(1, mine.total() + theirs.total())


def ours(raw: str) -> str:
    return "\n".join(render_html(raw).parts)


def alone(raw: str) -> str:
    import trafilatura

    return trafilatura.extract(raw, include_comments=False, include_tables=True) or ""


def prose(data: Path) -> list[str]:
    corpus = next(iter(sorted((data / "squad_v1_dev").glob("corpus.jsonl*"))), None)
    if corpus is None:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
        parts = [" ".join(part.split()) for text in topics.values() for part in text.split("\n\n")]
        return [part for part in parts if len(part) > 200 and part[0].isalpha()]
    with gzip.open(corpus, "rt", encoding="utf-8") if corpus.suffix == ".gz" else corpus.open() as rows:
        return [json.loads(row)["text"] for row in rows]


def measure(paragraphs: list[str], part: str, rounds: int) -> dict[str, Any]:
    layouts, first = PARTS[part]
    figures: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for seed in range(first, first + rounds):
        press = Press(paragraphs, seed)
        for layout in layouts:
            for length in (40, 120, 300, 900):
                for frame in (12, 48):
                    raw, truth = layout(press, length, frame)
                    for kind, shown in (("", raw), (", nameless", nameless(raw))):
                        row = figures.setdefault(layout.__name__ + kind, {"ours": [], "trafilatura": []})
                        row["ours"].append(score(ours(shown), truth))
                        row["trafilatura"].append(score(alone(shown), truth))
    result: dict[str, Any] = {"part": part}
    for reader in ("ours", "trafilatura"):
        every = [one for row in figures.values() for one in row[reader]]
        means = [round(statistics.mean(column), 4) for column in zip(*every, strict=True)]
        by_layout = {name: round(statistics.mean(f1 for _, _, f1 in row[reader]), 4) for name, row in figures.items()}
        names = ("precision", "recall", "f1")
        result[reader] = {"pages": len(every), **dict(zip(names, means, strict=True)), "f1_by_layout": by_layout}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one draw of each page in place of ten (tuning: five)")
    parser.add_argument("--part", choices=PARTS, default="reporting", help="which layouts and draws")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON line only")
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default)))
    options = parser.parse_args()
    rounds = 1 if options.quick else 800 // (16 * len(PARTS[options.part][0]))
    figures = measure(prose(options.data), options.part, rounds)
    figures["ahead_of_trafilatura"] = round(figures["ours"]["f1"] - figures["trafilatura"]["f1"], 4)
    short = missed(figures, GOALS)
    if not options.json:
        print(json.dumps(figures, indent=2))
        print(f"goals missed: {'; '.join(short) or 'none'}")
    print(json.dumps(figures))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
