"""The base of every configuration section, and `setting`, the one way to declare a field: text, unit, range, meaning.

A field says whether it changes the stage's result, because only such fields are part of the stage's key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A stage's part of the configuration. Unknown keys are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """`rank: yes` is no 1: what YAML reads as a boolean stands for a number nowhere, nor in a list of them."""
        items = value if isinstance(value, (list, tuple)) else [value]
        takes = _takes_booleans(cls.model_fields[str(field.field_name)].annotation)
        if not takes and any(isinstance(item, bool) for item in items):
            raise PydanticCustomError("boolean", "a boolean")
        return value


def _takes_booleans(kind: Any) -> bool:
    """Whether a type is bool, or names it among its parts."""
    return kind is bool or any(_takes_booleans(part) for part in get_args(kind))


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    result: bool | Literal["content", "auto"] = True,
    path: bool | Literal["or name"] = False,
    from_outside: bool | None = None,
    **limits: Any,
) -> Any:
    """A configuration field.

    Args:
        unit: what the number counts (tokens, passages, seconds).
        result: False where the value cannot change what the stage makes; "content" where it names a file or folder that
            counts by its bytes; "auto" where it names a model, which counts by its digest, and may be the word auto.
        path: relative values are taken relative to the configuration file; "or name" leaves alone what is no path there
            (a built-in name, a Hub id).
        from_outside: whether it may come with the parameters of a run, from whoever may start one; by default its type
            decides, see `closed_changes`. True for a free text that is no path, URL, command, model or secret, and that
            nothing makes one of; False for a switch or choice that opens a door (a service that is paid or sent texts).
        limits: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`.
    """
    extra: dict[str, Any] = {"unit": unit, "result": result, "path": path}
    if from_outside is not None:
        extra["from_outside"] = from_outside
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


def closed_changes(own: BaseModel, other: BaseModel, prefix: str = "") -> list[str]:
    """The fields in which the other configuration differs, and that only whoever writes the configuration may set.

    Numbers, switches and choices may come from outside. A free text may be a path, a URL or a command, so it may not,
    unless its field says so; the same for a section that is there in one and not in the other.
    """
    names: list[str] = []
    for name, info in type(own).model_fields.items():
        before, after = getattr(own, name), getattr(other, name)
        if isinstance(before, BaseModel) and type(before) is type(after):
            names += closed_changes(before, after, f"{prefix}{name}.")
        elif before != after and not _is_open(info):
            names.append(f"{prefix}{name}")
    return names


def _is_open(info: FieldInfo) -> bool:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    marked = extra.get("from_outside")
    return bool(marked) if marked is not None else not extra.get("path") and _is_plain(info.annotation)


def _is_plain(kind: Any) -> bool:
    """Whether no value of this type holds a free text."""
    if get_origin(kind) is Literal:
        return True
    if get_origin(kind) is Annotated:
        return _is_plain(get_args(kind)[0])
    parts = [part for part in get_args(kind) if part is not Ellipsis]
    return all(_is_plain(part) for part in parts) if parts else kind in (int, float, bool, type(None))
