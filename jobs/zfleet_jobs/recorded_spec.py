"""Specs as records keep them: a password in an address is for the job alone, and other secrets are refused."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from zfleet.config.spec import Spec
from zfleet_registry.address import address_of, carries_secret
from zfleet_registry.provenance.secrets import refuse_secrets

SpecT = TypeVar("SpecT", bound=Spec)

_ADDRESSES = ("registry", "storage", "study")
"""Keys, at any depth, whose values may be URLs."""


def check_recordable(spec: Spec) -> None:
    """Refuse a spec with a secret in it, which the registry would refuse after the work.

    Raises:
        RegistryError: Names the kind of secret, never the secret.
    """
    # Not validated again: code may have changed a copy in ways that a file may not.
    refuse_secrets({"the spec": json.dumps(_cleaned(spec.model_dump(mode="json")))})


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
