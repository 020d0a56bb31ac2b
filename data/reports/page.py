"""Renders the HTML pages of this room: escaped, self-contained, the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from data.statistics import TOO_FEW


def render_page(template: str, **content: Any) -> str:
    """The page of `data/reports/templates/<template>`, ending in a newline."""
    return _environment().get_template(template).render(**content) + "\n"


def percent(value: Any) -> str:
    """A share as a percentage with one digit; a dash where there is none."""
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) else "–"


def colour(difference: Mapping[str, Any]) -> str:
    """The style of a difference: by its verdict, never by its value alone."""
    return {"better": "good", "worse": "bad"}.get(difference["verdict"], "")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
    )
    environment.globals["too_few"] = TOO_FEW
    environment.filters |= {
        "percent": percent,
        "points": lambda v: f"{100 * v:+.1f}",
        "points_plain": lambda v: f"{100 * v:.1f}",
        "probability": lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}",
        "colour": colour,
    }
    return environment
