"""API keys: what each of them may ask for, and how much."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from zfleet.config.names import AUTO, NAME
from zfleet_serve.access.key_text import matches

ANY = "*"
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""Strict classes, the first one first: a key waits as long as one of a higher class waits."""
_LONGEST_NAME = 100


def _expert(name: str) -> str:
    if name not in (ANY, AUTO) and not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} is no expert's name: write names such as math, or *")
    return name


def _route(pattern: str) -> str:
    if pattern != ANY and not pattern.startswith("/"):
        raise ValueError(f"{pattern!r} is no path: write one such as /v1/chat/completions or /v1/models*, or *")
    return pattern


class KeySettings(BaseModel):
    """What the owner of a key may ask for, and how much.

    Attributes:
        experts: Names of experts, mixtures and dispatchers that requests may name, ``auto`` among them; ``*`` is all.
            The base may always be named.
        routes: Paths that requests may have; ``*`` stands for any characters.
        mixtures: Whether answers may come from several experts at once.
        lenient: Whether unknown fields of requests are ignored, with a header that names them, instead of refused.
        default_model: The model of requests that name none.
        weight: The share of the engines among keys of the same priority, while they are busy.
        priority: A key waits as long as one of a higher priority waits.
        requests_per_minute: None is without limit.
        tokens_per_minute: Of prompts and answers together.
        tokens_per_month: Of prompts and answers together, in a calendar month of UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experts: tuple[Annotated[str, AfterValidator(_expert)], ...] = Field((ANY,), min_length=1)
    routes: tuple[Annotated[str, AfterValidator(_route)], ...] = Field((ANY,), min_length=1)
    mixtures: bool = True
    lenient: bool = False
    default_model: str | None = None
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)
    priority: Priority = "normal"
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    tokens_per_month: int | None = Field(None, ge=1)

    def allows_expert(self, name: str) -> bool:
        """Return whether requests may name this expert, mixture or dispatcher."""
        return ANY in self.experts or name in self.experts

    def allows_route(self, path: str) -> bool:
        """Return whether requests may have this path."""
        return any(fnmatchcase(path, pattern) for pattern in self.routes)


class KeyName(BaseModel):
    """The name of a key, for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=_LONGEST_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")


@dataclass(frozen=True)
class Key:
    """An API key as it is stored.

    Attributes:
        id: Its public part, which may be logged.
        name: A name for people; several keys may have the same.
        settings: What it may ask for, and how much.
        created: Seconds since 1970, as all times here.
        expires: When it ends; None is never.
        revoked: When it was revoked; None if it is not.
        secret_hash: The slow hash of its secret.
        old_hash: That of the secret before the last rotation; None if it had none.
        old_until: When the secret before the last rotation ends.
    """

    id: str
    name: str
    settings: KeySettings
    created: float
    expires: float | None
    revoked: float | None
    secret_hash: str = field(repr=False)
    old_hash: str | None = field(repr=False)
    old_until: float | None

    def usable_hashes(self, now: float) -> tuple[str, ...]:
        """Return the hashes of the secrets that are accepted at this time; none if the key has ended."""
        if self.revoked is not None or (self.expires is not None and self.expires <= now):
            return ()
        if self.old_hash is not None and self.old_until is not None and now < self.old_until:
            return (self.secret_hash, self.old_hash)
        return (self.secret_hash,)

    def state(self, now: float) -> str:
        """Return ``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "active" if self.usable_hashes(now) else "expired"

    def verified_by(self, secret: str, now: float) -> str | None:
        """Find the hash that a secret fits. It takes tens of milliseconds for each hash.

        Returns:
            The hash; None if the secret is wrong or the key has ended.
        """
        return next((stored for stored in self.usable_hashes(now) if matches(secret, stored)), None)
