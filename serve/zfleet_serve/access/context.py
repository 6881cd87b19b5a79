"""One request as access control sees it: whose it is, and what it has used."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from zfleet.errors import NotAllowed
from zfleet_serve.access.amount import Amount
from zfleet_serve.access.fair_queue import Tenant
from zfleet_serve.access.keys import PRIORITIES, Key


@dataclass
class RequestContext:
    """A request under way.

    Attributes:
        tenant: Who shares the engine with others.
        key: Its API key; None if the service asks for none.
        deadline: When it must have ended, in seconds of the event loop's clock; None is never.
        used: What it has used.
        expert: The expert that answers, those of a mixture joined by ``+``; empty for the base.
        ignored: Fields of its body that were ignored.
        known: Whether it may hear more than that the service is well.
    """

    tenant: Tenant
    key: Key | None = None
    deadline: float | None = None
    used: Amount = field(default_factory=Amount)
    expert: str = ""
    ignored: tuple[str, ...] = ()
    known: bool = True

    def count(self, amount: Amount) -> None:
        """Add to what it has used."""
        self.used += amount

    def may_name(self, name: str) -> bool:
        """Return whether the request may name this expert, mixture or dispatcher, or ``auto``."""
        return self.key is None or self.key.settings.allows_expert(name)

    def check_named(self, name: str) -> None:
        """Check that the request may name an expert, as ``may_name``.

        Raises:
            NotAllowed: Its key is for others.
        """
        if self.key is not None and not self.may_name(name):
            allowed = ", ".join(self.key.settings.experts)
            raise NotAllowed(f"this key may not ask for {name!r}", f"it may ask for: {allowed}")

    def answered_by(self, experts: tuple[str, ...]) -> None:
        """Note who answers.

        Raises:
            NotAllowed: They are several, and its key is not for mixtures.
        """
        self.expert = "+".join(experts)
        if len(experts) > 1 and self.key is not None and not self.key.settings.mixtures:
            raise NotAllowed("this key may not use mixtures of experts", "ask for one expert")


def tenant_of(key: Key) -> Tenant:
    """Return the tenant of a key."""
    return Tenant(key.id, key.settings.weight, PRIORITIES.index(key.settings.priority))


ANYONE = RequestContext(Tenant("anyone"))
"""Of work that no client asked for."""
current: ContextVar[RequestContext] = ContextVar("current request", default=ANYONE)
"""The request that the running task works for."""
