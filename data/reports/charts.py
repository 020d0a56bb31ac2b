"""Small charts as inline SVG, coloured by the page's style sheet so that they follow light and dark.

No plotting library and no outside request: the strings go straight into a self-contained report. Knows nothing of
what the numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 260  # narrow, so that its letters stay readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 42


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, top: float = 0.0
) -> Markup:
    """Lines through (x, y) points, one a series, over at least 0 to `top`; points that are not finite are left out."""
    lines = {n: [(x, y) for x, y in p if math.isfinite(x) and math.isfinite(y)] for n, p in series.items()}
    lines = {n: sorted(p) for n, p in lines.items() if p}
    if not lines:
        return Markup("")
    xs = [x for p in lines.values() for x, _ in p]
    ys = [y for p in lines.values() for _, y in p]
    x_axis, y_axis = _ticks(min(xs), max(xs)), _ticks(min(0.0, *ys), max(top, *ys))
    body = _frame(x_axis, y_axis, x_label)
    for place, points in enumerate(lines.values()):
        dots = " ".join(
            f"{_at(x, x_axis, LEFT, WIDTH - RIGHT):.1f},{_at(y, y_axis, HEIGHT - BOTTOM, TOP):.1f}" for x, y in points
        )
        if len(points) > 1:
            body += f'<polyline class="line s{place % 4}" points="{dots}"/>'
        if len(points) <= 30:
            for dot in dots.split():
                x, y = dot.split(",")
                body += f'<circle class="dot s{place % 4}" cx="{x}" cy="{y}" r="3.5"/>'
    return _svg(body, title, list(lines))


def bar_chart(groups: Mapping[str, Mapping[str, float]], *, title: str, x_label: str, top: float = 1.0) -> Markup:
    """Grouped bars from 0 to at least `top`: group label -> series name -> value."""
    names = list(dict.fromkeys(n for g in groups.values() for n in g))
    values = [v for g in groups.values() for v in g.values() if math.isfinite(v)]
    if not values:
        return Markup("")
    y_axis = _ticks(0.0, max(top, *values))
    body = _frame([], y_axis, x_label)
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    wide = min(56.0, room * 0.8 / len(names))
    for g, (label, group) in enumerate(groups.items()):
        middle = LEFT + room * (g + 0.5)
        body += f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(label)}</text>'
        present = [n for n in names if n in group and math.isfinite(group[n])]
        for place, name in enumerate(present):
            top_of_bar = _at(group[name], y_axis, HEIGHT - BOTTOM, TOP)
            x = middle + (place - len(present) / 2) * wide
            body += (
                f'<rect class="bar s{names.index(name) % 4}" x="{x + 1:.1f}" y="{top_of_bar:.1f}" '
                f'width="{wide - 2:.1f}" height="{HEIGHT - BOTTOM - top_of_bar:.1f}">'
                f"<title>{escape(name)}, {escape(label)}: {group[name]:.3f}</title></rect>"
            )
    return _svg(body, title, names if len(names) > 1 else [])


def interval_chart(rows: Sequence[tuple[str, float, float, float]], *, title: str, x_label: str) -> Markup:
    """A dot and its interval on each line: (label, value, low, high), with the zero line marked."""
    if not rows:
        return Markup("")
    axis = _ticks(min(0.0, *(r[2] for r in rows)), max(0.0, *(r[3] for r in rows)))
    left, step = 182, 28
    height = TOP + step * len(rows) + BOTTOM
    body = ""
    for tick in axis:
        x = _at(tick, axis, left, WIDTH - RIGHT)
        kind = "zero" if tick == 0 else "grid"
        body += f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        body += f'<text x="{x:.1f}" y="{height - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>'
    for i, (label, value, low, high) in enumerate(rows):
        y = TOP + step * (i + 0.5)
        x0, x, x1 = (_at(v, axis, left, WIDTH - RIGHT) for v in (low, value, high))
        kind = "up" if low > 0 else "down" if high < 0 else "even"
        body += f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        body += f'<line class="whisker {kind}" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        body += f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    body += f'<text x="{(left + WIDTH) / 2}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>'
    return _svg(body, title, [], height=height)


def _frame(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> str:
    body = ""
    for tick in y_ticks:
        y = _at(tick, y_ticks, HEIGHT - BOTTOM, TOP)
        body += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        body += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
    for tick in x_ticks:
        x = _at(tick, x_ticks, LEFT, WIDTH - RIGHT)
        body += f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>'
    return body + f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'


def _svg(body: str, title: str, names: Sequence[str], *, height: int = HEIGHT) -> Markup:
    """`body` is escaped already. The legend is HTML, so that it wraps on a phone."""
    keys = "".join(f'<span class="key s{i % 4}">{escape(n)}</span>' for i, n in enumerate(names))
    legend = f' <span class="legend">{keys}</span>' if keys else ""
    return Markup(
        f"<figure><figcaption>{escape(title)}{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg></figure>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that span [low, high]."""
    if high <= low:
        high = low + 1.0
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _at(value: float, ticks: Sequence[float], start: float, stop: float) -> float:
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (stop - start)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
