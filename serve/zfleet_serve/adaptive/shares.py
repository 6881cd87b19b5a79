"""Which version answers a request for an expert's bare name, where several aliases share its traffic."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from zfleet.config.names import CHAMPION
from zfleet_registry import ExpertVersion, references
from zfleet_serve.adaptive.registry_line import Registry

_WHOLE = 100


@dataclass(frozen=True)
class Shares:
    """The versions that share an expert's traffic.

    Attributes:
        parts: (percent, version) of each, in the order of the aliases' names; together 100.
        shadow: Answers copies that nobody sees; None: there are none.
    """

    parts: tuple[tuple[int, ExpertVersion], ...]
    shadow: ExpertVersion | None = None

    def version_for(self, user: str | None) -> ExpertVersion:
        """Return the version that answers a user: the same one as long as the shares stay.

        When a share grows, only users who move to it change their version: the first of two aliases answers the users
        below its percent, whatever that is.

        Args:
            user: Who asks; None: nobody in particular, and each request is drawn by itself.
        """
        if len(self.parts) == 1:
            return self.parts[0][1]
        place = random.randrange(_WHOLE) if user is None else _place(self.parts[0][1].name, user)
        for percent, version in self.parts:
            if place < percent:
                return version
            place -= percent
        raise AssertionError("the parts are 100 % together")


def read_shares(registry: Registry, reference: str, base_slug: str) -> Shares:
    """Ask the registry who answers for a reference now.

    Args:
        registry: The registry; its calls block.
        reference: A bare name, whose traffic may be shared; with a version or an alias, that version answers alone.
        base_slug: The base.

    Raises:
        ExpertNotFound: There is no such expert, version or alias.
        RegistryError: The registry cannot say.
    """
    parsed = references.parse(reference)
    if parsed.version is not None or parsed.alias is not None:
        return Shares(((_WHOLE, registry.resolve(reference, base_slug)),))
    traffic = registry.traffic(base_slug, parsed.name)
    shadow = registry.resolve(f"{parsed.name}@{traffic.shadow}", base_slug) if traffic.shadow else None
    # Without shares the registry itself resolves a bare name: to the champion, or else the newest.
    if not traffic.shares or dict(traffic.shares) == {CHAMPION: _WHOLE}:
        return Shares(((_WHOLE, registry.resolve(reference, base_slug)),), shadow)
    parts = [
        (percent, registry.resolve(f"{parsed.name}@{alias}", base_slug))
        for alias, percent in sorted(traffic.shares.items())
    ]
    return Shares(tuple(parts), shadow)


def _place(name: str, user: str) -> int:
    """Spread users over 0 to 99, in another way for each expert: the same users do not always get the new versions."""
    return int.from_bytes(hashlib.sha256(f"{name}\0{user}".encode()).digest()[:8], "big") % _WHOLE
