"""The check of a gate that asks who signed the candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfleet.config.gate import GateSpec
from zfleet.errors import UntrustedVersion
from zfleet_registry.promotion.judge import Check
from zfleet_registry.signatures import trusted_keys, verify_version

if TYPE_CHECKING:
    from zfleet_registry.registry import ExpertRegistry
    from zfleet_registry.version import ExpertVersion


def check_signature(registry: ExpertRegistry, version: ExpertVersion, gate: GateSpec) -> Check | None:
    """Verify that the candidate is signed as a gate requires; None if the gate does not.

    Raises:
        CorruptArtifact: The artifact is not what was registered.
        RegistryError: A key of the gate cannot be used.
    """
    if not gate.signed_by:
        return None
    trusted = trusted_keys(gate.signed_by)
    required = " or ".join(map(str, trusted))
    try:
        signature = verify_version(registry.files(version), trusted)
    except UntrustedVersion as error:
        return Check("signed by", required, error.message, False)
    return Check("signed by", required, signature.signed_by, True)
