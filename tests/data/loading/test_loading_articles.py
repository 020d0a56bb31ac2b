"""An article is read without the menus, teasers and comments around it, however short it is; a manual is read whole."""

import re

import pytest

from data.loading.formats.html import render_html

ARTICLE = (
    "<h1>The ferry is back</h1><p>The ferry between the two islands runs again since Monday, after its engine was "
    "taken apart and put together in the yard of the northern harbour.</p><p>It leaves at eight in the morning and "
    "at five in the afternoon, and takes forty minutes in calm weather.</p>"
)
TRUTH = set(re.findall(r"\w+", re.sub("<[^>]+>", " ", ARTICLE).lower()))
MENU = "".join(f'<li><a href="/{n}">Section number {n} of the paper</a></li>' for n in range(120))
CARD = (
    '<div class="{name}"><a href="/{n}"><h3>Council votes on lane {n}</h3></a><p>The council of the town votes on the '
    "new lane beside the canal this week, and the shops there are against it.</p></div>"
)
CARDS = "".join(CARD.format(n=n, name="x1") for n in range(30))
COMMENTS = "".join(
    f'<li class="comment-body"><b>Reader {n}</b><p>I took that boat every summer as a child, and it was late on most '
    f"days; my uncle number {n} used to say that you could swim across sooner.</p></li>"
    for n in range(40)
)


def words_of(page: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", render_html(f"<html><body>{page}</body></html>").parts[0].lower()))


@pytest.mark.parametrize(
    "page",
    [
        f'<div class="c7"><ul>{MENU}</ul></div><div class="c8"><div class="c9">{ARTICLE}</div></div>',
        f'<div class="c7"><ul>{MENU}</ul></div><div class="c8">{ARTICLE}</div><div class="c9">{CARDS}</div>',
        f'<div class="c8">{ARTICLE}</div><div id="reader-comments"><ol>{COMMENTS}</ol></div>',
        f'<div class="c8">{ARTICLE}</div><div class="relatedStories">{CARDS}</div>',
        f'<main><div class="c8">{ARTICLE}</div></main><div class="c9"><ul>{COMMENTS}</ul></div>',
        ARTICLE.replace("</p><p>", f'</p><div class="c3"><b>Read more</b><ul>{MENU}</ul></div><p>'),
    ],
    ids=["menu", "teasers", "comments", "related", "beside the main part", "links inside"],
)
def test_a_short_article_is_not_replaced_by_its_page(page):
    words = words_of(page)
    assert words - TRUTH <= {"read", "more"}
    assert words >= TRUTH


THINGS = ("salt of the sea", "two lemons", "fresh butter", "a cup of flour")
STEPS = (
    "Heat the oven of the galley before anything else is done.",
    "Stir the butter, the flour and the salt until nothing sticks.",
    "Bake all of it for as long as the crossing takes.",
)


GALLEY = (
    "<p>It is a boat of forty metres with a galley, in which the crew bakes on every crossing, and the guests may ask "
    "for what they like of it.</p>"
)
TEASERS = "".join(
    f'<div class="x{n}"><h3><a href="/{n}">Council votes on lane {n}</a></h3><p>The council of the town votes on the '
    "new lane beside the canal this week, and the shops there are against it.</p></div>"
    for n in range(6)
)


@pytest.mark.parametrize(
    ("item", "beside"),
    [
        ("<li>{}</li>", TEASERS),
        ("<li><label><input type=checkbox>{}</label></li>", ""),
        ("<li><label><input type=checkbox>{}</label></li>", TEASERS),
    ],
    ids=["plain", "to tick off", "to tick off, beside teasers"],
)
def test_lists_that_end_an_article_are_read_and_lists_beside_it_are_not(item, beside):
    things, steps = ("".join(item.format(line) for line in lines) for lines in (THINGS, STEPS))
    lists = f"<h2>What it needs</h2><ul>{things}</ul><h2>How it is made</h2><ol>{steps}</ol>"
    stars = "".join(f"<li>guest {n}: five stars</li>" for n in range(12))
    page = f'<div class="x1">{ARTICLE}{GALLEY * 2}{lists}</div><div class="x2"><h3>Ratings</h3><ul>{stars}</ul></div>'
    text = render_html(f"<html><body>{page}{beside}</body></html>").parts[0]
    assert [line for line in (*THINGS, *STEPS) if line not in text] == []
    assert "## What it needs" in text
    assert "## How it is made" in text
    assert "stars" not in text
    assert "lane" not in text


def test_an_article_in_a_layout_named_after_its_sidebar_is_read():
    page = f'<div class="has-sidebar"><div class="content-with-comments">{ARTICLE}</div></div><ul>{MENU}</ul>'
    assert words_of(page) == TRUTH
    assert words_of(f'<div class="widget">{ARTICLE}</div>') == TRUTH  # a name alone does not take the article away


def test_a_manual_of_which_little_looks_like_an_article_is_read_whole():
    entries = "".join(f"<dl><dt>set_{n}(x)</dt><dd><pre>set_{n}(3)</pre></dd></dl>" for n in range(60))
    text = render_html(
        f'<html><body><ul>{MENU}</ul><div class="body"><h1>Module</h1><p>It sets values, one at a time.</p>{entries}'
        f"</div></body></html>"
    ).parts[0]
    assert all(f"set_{n}(x)" in text and f"set_{n}(3)" in text for n in range(60))
    assert "Section number" not in text


def test_a_table_of_contents_is_no_menu():
    chapters = "".join(f'<dt><a href="c{n}.html">How long is rope {n}?</a></dt>' for n in range(50))
    page = f'<h1>A book of ropes</h1><p>It answers questions.</p><dl class="toc">{chapters}</dl>'
    text = render_html(f"<html><body>{page}</body></html>").parts[0]
    assert "How long is rope 49?" in text


def test_a_page_of_links_alone_keeps_them():
    assert "section" in words_of(f"<ul>{MENU}</ul>")


def test_links_and_their_marks_leave_no_trace_in_words():
    page = (
        '<p>The <a href="/f">ferry</a>s of <a href="/n"> the north </a>, and <a href="/s"><b>south</b></a>.</p>'
        '<pre>a  =  <a href="/x">b</a></pre><table><tr><td><a href="/y">one</a></td><td>two</td></tr></table>'
    )
    text = render_html(f"<html><body><article>{page}</article></body></html>").parts[0]
    assert "The ferrys of the north , and south." in text
    assert "a  =  b" in text
    assert "| one | two |" in text
    assert not re.search("[\x0e-\x12]", text)
