"""The gate of an alias is an entry of the expert's log, so that no command can leave it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfleet.config.gate import GateSpec
from zfleet.errors import RegistryError
from zfleet_registry.aliases import Aliases
from zfleet_registry.log import Action, Entry, State
from zfleet_registry.signatures import trusted_keys

if TYPE_CHECKING:
    from zfleet_registry.registry import ExpertRegistry
    from zfleet_registry.version import ExpertVersion


def protect(registry: ExpertRegistry, version: ExpertVersion, gate: GateSpec, why: str = "") -> Entry:
    """Give an alias of an expert a gate, or another gate.

    Args:
        registry: The registry.
        version: Any version of the expert.
        gate: The gate; it names the alias, and has the text of its keys.
        why: For the log.

    Raises:
        RegistryError: It is a dispatcher: evaluations give evidence about z-vectors. Or a key cannot be used.
    """
    if version.is_dispatcher:
        raise RegistryError(
            f"{version.qualified} is a dispatcher, and gates judge experts",
            "protect experts; `zfleet calibrate` measures dispatchers",
        )
    trusted_keys(gate.signed_by)
    aliases = registry.aliases(version.base_slug, version.name)
    action = Action("protect", aliases.expert, gate.alias, why=why, data=gate.model_dump(mode="json"))
    return aliases.log.append(action)


def unprotect(aliases: Aliases, alias: str, why: str) -> Entry:
    """Remove the gate of an alias.

    Raises:
        RegistryError: It has none.
    """
    if alias not in aliases.log.state.gates:
        raise RegistryError(f"alias {alias!r} of {aliases.expert} has no gate", "name a protected alias")
    return aliases.log.append(Action("unprotect", aliases.expert, alias, why=why))


def gate_of(aliases: Aliases, state: State, alias: str) -> GateSpec | None:
    """Return the gate of an alias in a state of the log; None if it has none.

    Raises:
        RegistryError: The entry with the gate was removed or damaged.
    """
    number = state.gates.get(alias)
    if number is None:
        return None
    entry = aliases.log.entry(number)
    if entry is None or entry.action.what != "protect":
        raise RegistryError(
            f"the gate of alias {alias!r} of {aliases.expert} cannot be read: entry {number} of the log is damaged",
            f"protect it again: zfleet experts protect {aliases.expert} --gate FILE",
        )
    return GateSpec.model_validate(dict(entry.action.data))
