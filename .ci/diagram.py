"""A Mermaid flowchart as SVG, for the documentation site: the script that draws it would be fetched from elsewhere.

Only what README draws is known: `flowchart`, chains of `a[label] --> b` and edges with words, `a -- words --> b`. The
steps stand below each other, and an edge that skips some of them passes on their right.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

BOX_HEIGHT, STEP, LETTER, PADDING = 26, 48, 7.9, 10
_NODE = re.compile(r"(\w+)(?:\[([^\]]*)\])?$")
_ARROW = re.compile(r"\s*(?:--\s+(.+?)\s+)?-->\s*")


@dataclass(frozen=True)
class Edge:
    """From one step to another, with words beside it or ""."""

    start: str
    end: str
    words: str


def read(text: str) -> tuple[dict[str, str], list[Edge]]:
    """Steps with their labels, and the edges.

    Raises:
        ValueError: a line that is not understood.
    """
    labels: dict[str, str] = {}
    edges: list[Edge] = []
    for line in [line.strip() for line in text.splitlines()[1:] if line.strip()]:
        first, *rest = _ARROW.split(line)
        chain = [first, *rest[1::2]]
        names = []
        for step in chain:
            match = _NODE.match(step.strip())
            if match is None:
                raise ValueError(f"{line!r} is no line of a flowchart that can be drawn")
            labels[match[1]] = match[2] or labels.get(match[1], match[1])
            names.append(match[1])
        edges += [Edge(a, b, words or "") for a, b, words in zip(names, names[1:], rest[::2], strict=False)]
    return labels, edges


def levels(labels: dict[str, str], edges: list[Edge]) -> dict[str, int]:
    """Each step's place from the top: one below the lowest of those that lead to it."""
    level = dict.fromkeys(labels, 0)
    for _ in labels:
        for edge in edges:
            level[edge.end] = max(level[edge.end], level[edge.start] + 1)
    if any(level[edge.end] <= level[edge.start] for edge in edges):
        raise ValueError("the flowchart has a circle")
    return level


def draw(text: str) -> str:
    """The flowchart as one line of SVG, in the colour of the text around it."""
    labels, edges = read(text)
    level = levels(labels, edges)
    widths = {name: 2 * PADDING + LETTER * len(label) for name, label in labels.items()}
    rows: dict[int, list[str]] = {}
    for name in labels:
        rows.setdefault(level[name], []).append(name)
    across = max(sum(widths[name] + PADDING for name in row) for row in rows.values())
    centre = {}
    for row in rows.values():
        left = (across - sum(widths[name] + PADDING for name in row)) / 2
        for name in row:
            centre[name] = left + (widths[name] + PADDING) / 2
            left += widths[name] + PADDING
    parts, right, lane = [], across, 0
    for edge in edges:
        x, y = centre[edge.start], level[edge.start] * STEP + BOX_HEIGHT
        if level[edge.end] == level[edge.start] + 1:
            parts.append(_path(f"M{x:.0f} {y}L{centre[edge.end]:.0f} {level[edge.end] * STEP - 5}"))
            continue
        lane += 1
        turn = across + 24 * lane
        x, y = x + widths[edge.start] / 2, y - BOX_HEIGHT / 2
        end, below = centre[edge.end] + widths[edge.end] / 2 + 5, level[edge.end] * STEP + BOX_HEIGHT / 2
        parts.append(_path(f"M{x:.0f} {y:.0f}C{turn:.0f} {y:.0f} {turn:.0f} {below:.0f} {end:.0f} {below:.0f}"))
        words = html.escape(edge.words)
        middle = (x + 3 * turn * 2 + end) / 8 + 6
        parts.append(f'<text x="{middle:.0f}" y="{(y + below) / 2 + 4:.0f}" fill="currentColor">{words}</text>')
        right = max(right, middle + LETTER * len(edge.words))
    for name, label in labels.items():
        x, y = centre[name] - widths[name] / 2, level[name] * STEP
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="{widths[name]:.0f}" height="{BOX_HEIGHT}" rx="4" fill="none" '
            f'stroke="currentColor"/><text x="{centre[name]:.0f}" y="{y + 17}" text-anchor="middle" '
            f'fill="currentColor">{html.escape(label)}</text>'
        )
    width, height = right + PADDING, max(level.values()) * STEP + BOX_HEIGHT + 2
    head = '<marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    tip = f'<defs>{head}<path d="M0 0L6 3L0 6z" fill="currentColor"/></marker></defs>'
    return (
        f'<svg role="img" aria-label="The flow: {html.escape(", ".join(labels.values()))}" viewBox="-1 -1 {width:.0f} '
        f'{height:.0f}" width="{width:.0f}" style="max-width:100%" font-size="13" font-family="monospace">'
        f"{tip}{''.join(parts)}</svg>"
    )


def _path(form: str) -> str:
    return f'<path d="{form}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>'
