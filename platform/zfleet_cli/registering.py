"""Register an expert that a command made, or only say what would be registered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zfleet_cli.output import print_fields

if TYPE_CHECKING:
    from zfleet.svf.zvector import ZVector
    from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance


@dataclass(frozen=True, eq=False)
class Planned:
    """An expert that is not registered yet.

    Attributes:
        name: The expert, such as ``math``.
        base_name: What people call the base.
        z: Its values.
        provenance: Of this z.
    """

    name: str
    base_name: str
    z: ZVector
    provenance: Provenance

    def register(self, experts: ExpertRegistry) -> ExpertVersion:
        """Register it, or return the version of this name that has this z already."""
        found = experts.find(self.name, self.z)
        return found or experts.register(self.name, self.z, self.provenance, base_name=self.base_name)

    def to_plain(self) -> dict[str, Any]:
        """Return what would be registered, for programs."""
        return {"name": self.name, "base_slug": self._slug, "provenance": asdict(self.provenance)}

    def print(self) -> None:
        """Say what would be registered, for people."""
        print_fields(asdict(self.provenance), f"{self._slug}.{self.name} would be registered")

    @property
    def _slug(self) -> str:
        from zfleet.models.base import base_slug

        return base_slug(self.base_name, self.z.base)
