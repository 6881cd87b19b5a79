"""The base class of all parts of a spec, and the types of names in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from zfleet.config.names import LONGEST, NAME, REFERENCE, expert_name

Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=LONGEST)]
ExpertName = Annotated[str, AfterValidator(expert_name)]


def _reference(text: str) -> str:
    if not REFERENCE.fullmatch(text):
        raise ValueError("write a reference such as math, math/3 or math@champion")
    return text


Reference = Annotated[str, AfterValidator(_reference)]
"""A reference to a version of an expert or a dispatcher."""

_BYTES = TypeAdapter(ByteSize)


def _in_gib(size: object) -> object:
    """Convert text with a unit to a number of GiB; text without one is that number already."""
    if not isinstance(size, str):
        return size
    try:
        return float(size)
    except ValueError:
        pass
    try:
        return _BYTES.validate_python(size) / 2**30
    except ValidationError:
        raise ValueError(f"{size!r} is not a size: write a number of GiB, or a number with its unit: 3GiB") from None


Gib = Annotated[float, BeforeValidator(_in_gib), Field(gt=0, allow_inf_nan=False)]
"""A size of memory in GiB, which specs may also write as text with a unit: ``3GiB``, ``500 MiB``."""


def _auto_or_count(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("write `auto`, or a whole number of 1 or more")


def _auto_or_switch(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("write `auto`, `true` or `false`")


# Validators, because pydantic would tell of each type of a union what is wrong.
CountOrAuto = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_count)]
SwitchOrAuto = Annotated[bool | Literal["auto"], BeforeValidator(_auto_or_switch)]


class Spec(BaseModel):
    """A strict, frozen part of a spec: unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
