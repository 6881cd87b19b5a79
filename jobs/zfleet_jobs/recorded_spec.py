"""Specs as records keep them: a password in an address is for the job alone."""

from __future__ import annotations

from typing import Any, TypeVar

from zfleet.config.spec import Spec
from zfleet_registry.address import address_of, carries_secret

SpecT = TypeVar("SpecT", bound=Spec)

_ADDRESSES = ("registry", "storage", "study")
"""Keys, at any depth, whose values may be URLs."""


def recorded(spec: SpecT) -> SpecT:
    """Copy a spec without user, password and query of the addresses that hold a secret."""
    return type(spec).model_validate(_cleaned(spec.model_dump(mode="json")))


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_cleaned(part, key) for part in value]
    if key in _ADDRESSES and isinstance(value, str) and "://" in value and carries_secret(value):
        return address_of(value)
    return value
