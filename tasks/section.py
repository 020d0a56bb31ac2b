"""The base of every configuration section, and `setting`, the one way to declare a field: text, unit, range, meaning.

A field says whether it changes the stage's result, because only such fields are part of the stage's key.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A stage's part of the configuration. Unknown keys are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    result: bool | Literal["content"] = True,
    path: bool | Literal["or name"] = False,
    **limits: Any,
) -> Any:
    """A configuration field.

    Args:
        unit: what the number counts (tokens, passages, seconds).
        result: False where the value cannot change what the stage makes; "content" where it names a file or folder that
            counts by its bytes.
        path: relative values are taken relative to the configuration file; "or name" leaves alone what is no path there
            (a built-in name, a Hub id).
        limits: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`.
    """
    extra: dict[str, Any] = {"unit": unit, "result": result, "path": path}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)
