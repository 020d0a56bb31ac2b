"""Which blocks of a page are its article: trafilatura's judgement, checked against links, frames and what it left out.

A short article on a page full of menus, teasers and comments is still the article. A long reference page of which
trafilatura keeps a paragraph is not that paragraph. What tells them apart is what was left out: links and the frame of
the page on one side, prose, tables and code on the other. Blocks are judged here and never written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from data.loading.text import clean_text

if TYPE_CHECKING:
    from data.loading.formats.html import Block

_WORD = re.compile(r"\w+")
_SHINGLE = 4
_SHORTEST_SHARE = 0.35
"""Of the page's own words (links and frame aside) that extraction must keep to be believed."""
_SHORT_GAP = 5
"""Blocks between two kept ones that are kept with them."""
_LINKS = 0.5  # share of words in links from which a block is a list of links
_TEASER_WORDS = 60
_LEAST_WORDS = 20  # fewer words are no article
_LINK, _LINK_END, _FRAME, _MAIN = "\x0e", "\x0f", "\x10", "\x11"  # stand in the tree's texts while blocks are made
_PLACE = "\x12"  # around the number of a place
_NUMBER = re.compile(f"{_PLACE}(\\d+){_PLACE}")
_MARKS = re.compile(f"{_NUMBER.pattern}|[{_LINK}{_LINK_END}{_FRAME}{_MAIN}{_PLACE}]")
_CLIMB = 12  # elements from a text up to its paragraph or list; pages nest 100,000 deep
_FRAME_NAMES = """
nav navbar navigation menu megamenu submenu breadcrumb breadcrumbs footer foot sidebar widget widgets related
recommended recommendation recommendations teaser teasers promo promos promotion advert advertisement ads ad banner
cookie cookies consent gdpr newsletter subscribe subscription signup share sharing sharebar social comment comments
disqus respond taglist legal masthead pagination pager popular trending mostread skip outbrain taboola toolbar topbar
navbox printfooter sitemap"""
_LAYOUT_NAMES = "has with no without is post type category tag tags cat layout page container wrapper"
_FRAME_WORDS, _LAYOUT_WORDS = frozenset(_FRAME_NAMES.split()), frozenset(_LAYOUT_NAMES.split())
_CONTENTS = frozenset(("toc", "toctree-wrapper", "contents", "tableofcontents"))
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MOST_CHECKS = 500


@dataclass(frozen=True)
class Passage:
    """A block with what its place in the page says: the share of its words in links, in the page's frame, in its main
    part, and the number of the element that holds its paragraph or list; 0 where that is not known."""

    block: Block
    words: tuple[str, ...]
    linked: float = 0.0
    in_frame: bool = False
    in_main: bool = False
    place: int = 0


def mark_places(tree: Any) -> None:
    """Marks the texts of links, of the page's frame and of its main part, and what holds each paragraph and list, for
    `passages_of` to read off the blocks."""
    main = _main_part(tree)
    texts = list(_texts(tree.root, main.mem_id if main is not None else None))
    numbers: dict[int, int] = {}
    for node, is_linked, is_framed, is_main in texts:
        before = (_FRAME if is_framed else "") + (_MAIN if is_main else "")
        if (holder := _holder(node)) is not None:
            before += f"{_PLACE}{numbers.setdefault(holder, len(numbers) + 1)}{_PLACE}"
        before += _LINK if is_linked else ""
        if before:
            node.insert_before(before)
        if is_linked:
            node.insert_after(_LINK_END)


def _holder(text: Any) -> int | None:
    """The element that holds the paragraph or outermost list of a text."""
    node, inside = text.parent, ""
    for _ in range(_CLIMB):
        if node is None:
            return None
        tag = node.tag or ""
        if inside == "list" and tag not in ("li", "ul", "ol"):
            return node.mem_id
        if inside == "p" and tag != "li":
            return node.mem_id
        inside = "list" if tag in ("li", "ul", "ol") else "p" if tag == "p" else inside
        node = node.parent
    return None


def _main_part(tree: Any) -> Any | None:
    for selector in ("[itemprop=articleBody]", "article", "main, [role=main]"):
        parts = tree.css(selector)
        if len(parts) == 1:
            return parts[0]
    return None


def _texts(root: Any, main: int | None) -> Iterator[tuple[Any, bool, bool, bool]]:
    """Every text of the tree that is not blank: whether it stands in a link, in a frame, in the main part."""
    links, frames, mains, headings = 0, 0, 0, 0
    open_frames: list[int] = []
    open_contents: list[int] = []
    checks = 0
    node, entering = root, True
    while node is not None:
        tag = node.tag or ""
        if entering:
            if tag == "-text":
                if (node.text_content or "").strip():
                    yield node, links > 0 and not open_contents, frames > 0, mains > 0
            else:
                heading = len(tag) == 2 and tag[0] == "h" and tag[1].isdigit()
                headings += heading
                links += _is_link(node, tag, headings > 0)
                mains += node.mem_id == main
                if _is_table_of_contents(node, tag):
                    open_contents.append(node.mem_id)
                if not frames and checks < _MOST_CHECKS and _names_a_frame(node, tag):
                    checks += 1
                    if not node.css_first("h1, main, article"):
                        open_frames.append(node.mem_id)
                frames = len(open_frames)
                if node.first_child is not None:
                    node = node.first_child
                    continue
                entering = False
                continue
        elif tag != "-text":
            heading = len(tag) == 2 and tag[0] == "h" and tag[1].isdigit()
            links -= _is_link(node, tag, headings > 0)
            headings -= heading
            mains -= node.mem_id == main
            if open_frames and open_frames[-1] == node.mem_id:
                open_frames.pop()
            frames = len(open_frames)
            if open_contents and open_contents[-1] == node.mem_id:
                open_contents.pop()
        if node.mem_id == root.mem_id:
            return
        if node.next is not None:
            node, entering = node.next, True
        else:
            node, entering = node.parent, False


def _is_link(node: Any, tag: str, in_heading: bool) -> bool:
    """A heading that links to itself is no link."""
    if tag != "a":
        return False
    target = node.attributes.get("href")
    return bool(target) and not (in_heading and target.startswith("#"))


def _is_table_of_contents(node: Any, tag: str) -> bool:
    """Its links are titles of the book that the page belongs to."""
    if tag not in ("div", "dl", "ul", "ol", "section"):
        return False
    return bool(_CONTENTS.intersection((node.attributes.get("class") or "").lower().split()))


def _names_a_frame(node: Any, tag: str) -> bool:
    """Whether role, id or a class names a part of the frame: `site-footer`, `relatedPosts`, not `has-sidebar`."""
    if tag in ("", "-text", "html", "body", "main", "article", "a", "span", "p") or tag[0] in "-!":
        return False
    attributes = node.attributes
    if attributes.get("role") in ("navigation", "contentinfo", "complementary", "search"):
        return True
    place = "" if tag == "section" else attributes.get("id") or ""  # sections of manuals have their headings as ids
    names = f"{place} {attributes.get('class') or ''}".split()
    for name in names[:20]:
        words = [word.lower() for word in _TOKEN.findall(name)]
        if words and not _LAYOUT_WORDS.intersection(words) and {words[0], words[-1], "".join(words)} & _FRAME_WORDS:
            return True
        if name.lower().endswith("sidebar") and words and not _LAYOUT_WORDS.intersection(words):
            return True
    return False


def passages_of(blocks: Sequence[Block]) -> list[Passage]:
    """The blocks without the marks, each with what the marks said; blocks that held nothing else are left out."""
    passages = []
    for block in blocks:
        text = block.text
        linked = 0
        if _MARKS.search(text):
            links = re.findall(f"{_LINK}([^{_LINK_END}]*){_LINK_END}", text)
            linked = sum(len(_WORD.findall(_MARKS.sub("", link))) for link in links)
            plain = _MARKS.sub("", text)
            if block.kind != "code":
                plain = "\n".join(" ".join(line.split()) for line in plain.split("\n")).strip()
            if not plain:
                continue
            block = replace(block, text=plain)
        words = tuple(_WORD.findall(clean_text(block.text).lower()))
        share = linked / len(words) if words else 0.0
        place = _NUMBER.search(text)
        number = int(place[1]) if place else 0
        passages.append(Passage(block, words, share, _FRAME in text, _MAIN in text, number))
    return passages


def article_of(passages: Sequence[Passage], page: str) -> list[Block]:
    """The blocks that trafilatura keeps of the page, with the headings above them; none where it is not believed."""
    main = _WORD.findall(clean_text(_main_text(page)).lower())
    kept = [p.block.kind != "heading" and stands for p, stands in zip(passages, _stand_in(passages, main), strict=True)]
    if not any(kept):
        return []
    teasers = _teasers(passages)
    aside = [p.in_frame or teaser for p, teaser in zip(passages, teasers, strict=True)]
    every = sum(len(p.words) for p, keep in zip(passages, kept) if keep)
    own = sum(len(p.words) for p, keep, out in zip(passages, kept, aside) if keep and not out)
    least = _SHORTEST_SHARE if own > every / 2 else 2 * _SHORTEST_SHARE
    if own >= _LEAST_WORDS:
        kept = [keep and not out for keep, out in zip(kept, aside)]
    elif _left_out(passages, kept, aside) >= _LEAST_WORDS:
        return []  # the frame was taken for the article
    else:  # what is named like a frame holds the article
        aside = [False] * len(passages)
        own = every
    if own < least * (own + _left_out(passages, kept, aside)):
        return []
    _keep_whole_tables(passages, kept, aside)
    _fill_gaps(passages, kept, aside)
    _keep_lists_beside(passages, kept, aside)
    for index, passage in enumerate(passages):
        if passage.block.kind == "heading":
            kept[index] = _has_content(passages, kept, index)
    return [p.block for p, keep in zip(passages, kept) if keep]


def whole_page(passages: Sequence[Passage]) -> list[Block]:
    """All blocks, less the page's frame, teasers beside an article, and lists of links before and after its words."""
    inside = [p for p in passages if not p.in_frame]
    if sum(len(p.words) for p in inside) < _LEAST_WORDS:
        inside = list(passages)
    beside = [p for p, teaser in zip(inside, _teasers(inside), strict=True) if not teaser]
    if sum(len(p.words) for p in beside if p.block.kind == "text" and p.linked < _LINKS) > _TEASER_WORDS:
        inside = beside
    own = [n for n, p in enumerate(inside) if p.block.kind != "heading" and p.words and p.linked < _LINKS]
    if sum(len(inside[n].words) for n in own) < _LEAST_WORDS:
        return [p.block for p in inside]  # a page of links
    first = own[0]
    while first and inside[first - 1].block.kind == "heading":
        first -= 1
    return [p.block for p in inside[first : own[-1] + 1]]


def _main_text(page: str) -> str:
    import trafilatura

    try:
        return (
            trafilatura.extract(
                page, output_format="txt", include_tables=True, include_comments=False, include_formatting=False
            )
            or ""
        )
    except (ValueError, AssertionError, AttributeError, TypeError, RecursionError):  # hostile trees; all is kept then
        return ""


def _shingles(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1))


def _stand_in(passages: Sequence[Passage], main: Sequence[str]) -> list[bool]:
    """For each passage, whether its words stand in `main`; what stands there once is kept once."""
    shingles, stream = _shingles(main), " " + " ".join(main) + " "
    used: Counter[tuple[str, ...]] = Counter()

    def stands(words: tuple[str, ...]) -> bool:
        own = _shingles(words)
        if own:
            common = own & shingles
            if common.total() < 0.5 * own.total():
                return False
            shingles.subtract(common)
            return True
        used[words] += 1
        return bool(words) and stream.count(f" {' '.join(words)} ") >= used[words]

    return [stands(passage.words) for passage in passages]


def _teasers(passages: Sequence[Passage]) -> list[bool]:
    """Headings that are links, with the few words below each: other articles. One or two may be the page's own."""
    teasers = [False] * len(passages)
    starts = [n for n, p in enumerate(passages) if p.block.kind == "heading" and p.linked > 0.9]
    if len(starts) < 3:
        return teasers
    for start in starts:
        end, words = start + 1, 0
        while end < len(passages) and passages[end].block.kind in ("text", "item"):
            words += len(passages[end].words)
            end += 1
        if words <= _TEASER_WORDS:
            teasers[start:end] = [True] * (end - start)
    return teasers


def _left_out(passages: Sequence[Passage], kept: Sequence[bool], aside: Sequence[bool]) -> int:
    """Words of what was not kept and is neither links nor frame; of the main part alone where that holds the rest."""
    kept_words = sum(len(p.words) for p, keep in zip(passages, kept) if keep)
    kept_in_main = sum(len(p.words) for p, keep in zip(passages, kept) if keep and p.in_main)
    only_main = kept_in_main > 0.8 * kept_words
    return sum(
        len(p.words)
        for p, keep, out in zip(passages, kept, aside)
        if not keep and not out and p.block.kind != "heading" and p.linked < _LINKS and (p.in_main or not only_main)
    )


def _keep_whole_tables(passages: Sequence[Passage], kept: list[bool], aside: Sequence[bool]) -> None:
    """A table of which rows are kept is kept whole: words of merged cells are repeated here and not there."""
    for step in (range(1, len(passages)), range(len(passages) - 2, -1, -1)):
        for index in step:
            before = index - 1 if step.step > 0 else index + 1
            if kept[before] and passages[before].block.kind == passages[index].block.kind == "row":
                kept[index] = kept[index] or not aside[index]


def _fill_gaps(passages: Sequence[Passage], kept: list[bool], aside: Sequence[bool]) -> None:
    """Code, tables and short gaps inside the content are content, lists of links and parts of the frame are not."""
    first = before = kept.index(True)
    last = len(kept) - 1 - kept[::-1].index(True)
    for index in range(first, last + 1):
        passage = passages[index]
        if passage.block.kind in ("code", "row") and not aside[index] and passage.linked < 0.9:
            kept[index] = True
        if kept[index]:
            gap = range(before + 1, index)
            if len(gap) <= _SHORT_GAP:
                is_list = sum(passages[n].linked >= _LINKS for n in gap) >= 3
                for n in gap:
                    is_own = not aside[n] and not (is_list and passages[n].linked >= _LINKS)
                    kept[n] = is_own and passages[n].block.kind != "heading"
            before = index


def _keep_lists_beside(passages: Sequence[Passage], kept: list[bool], aside: Sequence[bool]) -> None:
    """Lists that stand in one element with kept prose are content: what a recipe needs and its steps, which trafilatura
    leaves out where they end the article."""
    prose: Counter[int] = Counter()
    for passage, keep in zip(passages, kept, strict=True):
        if keep and passage.place and passage.block.kind == "text":
            prose[passage.place] += len(passage.words)
    for index, passage in enumerate(passages):
        if passage.block.kind == "item" and prose[passage.place] >= _LEAST_WORDS and passage.linked < _LINKS:
            kept[index] = kept[index] or not aside[index]


def _has_content(passages: Sequence[Passage], kept: Sequence[bool], index: int) -> bool:
    """Whether a kept block stands below the heading at `index`, before the next heading of its level or above."""
    for later in range(index + 1, len(passages)):
        block = passages[later].block
        if block.kind == "heading":
            if block.level <= passages[index].block.level:
                return False
        elif kept[later]:
            return True
    return False
