"""Sign a version, and verify who signed it.

Signed are the artifact and the card of a version. The artifact contains the expert's name and base, so that a signed
file under another name is refused, and says who registered it and when. It does not contain the version's number, which
a bundle's import changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError, UntrustedVersion
from zfleet_registry import z_file
from zfleet_registry.log import Action
from zfleet_registry.provenance import card
from zfleet_registry.references import model_name
from zfleet_registry.signatures.keys import TrustedKey
from zfleet_registry.signatures.library import sign_files, verify_files
from zfleet_registry.signatures.signer import Signer
from zfleet_registry.version_files import SIGNATURES, VersionFiles

if TYPE_CHECKING:
    from zfleet_registry.registry import ExpertRegistry
    from zfleet_registry.version import ExpertVersion

_DIGITS = 16


@dataclass(frozen=True)
class Signature:
    """A signature of a version that was verified.

    Attributes:
        version: Qualified by its base.
        signed_by: Who signed: the subject of a certificate, or else the key.
        trusted: The trusted key or certificate that shows it.
        identity: The sha256 of that.
    """

    version: str
    signed_by: str
    trusted: str
    identity: str


def sign_version(registry: ExpertRegistry, version: ExpertVersion, signer: Signer) -> str:
    """Sign a version. The signature is stored beside the artifact, one for each key, and recorded in the log.

    Args:
        registry: The registry.
        version: The version.
        signer: The key, and perhaps its certificate.

    Returns:
        The identity of the key.

    Raises:
        CorruptArtifact: The artifact is not what was registered.
        RegistryError: The key cannot be used, or the artifact does not contain its name.
    """
    identity = signer.check()
    files = registry.files(version)
    data = files.artifact()
    model = model_name(version.base_slug, version.name)
    if z_file.name_in(data) != model:
        raise RegistryError(
            f"the artifact of {version.qualified} does not contain this name, so that a signature would not be of it",
            "register the expert again: export it to a file, and import that",
        )
    files.write(f"{SIGNATURES}/{identity[:_DIGITS]}.json", sign_files(_signed(files, data), signer))
    action = Action("sign", model, version=version.version, data={"key": identity})
    registry.log(version.base_slug, version.name).append(action)
    return identity


def verify_version(files: VersionFiles, trusted: Sequence[TrustedKey]) -> Signature:
    """Verify that a version was signed by one of some keys.

    Raises:
        UntrustedVersion: It is not signed, or by others, or the signed files are not these, or are another expert's.
        CorruptArtifact: The artifact is not what was registered.
    """
    version = files.version
    keys = " or ".join(map(str, trusted))
    data = files.artifact()
    remedy = f"sign it, after a look at what it is: zfleet experts sign {version.qualified} --key KEY"
    if (name := z_file.name_in(data)) != model_name(version.base_slug, version.name):
        raise UntrustedVersion(
            f"the artifact of {version.qualified} is of {name or 'an expert without a name'}", remedy
        )
    signatures = files.signatures()
    if not signatures:
        raise UntrustedVersion(f"{version.qualified} is not signed; it must be signed by {keys}", remedy)
    signed = _signed(files, data)
    reasons = []
    for signature in signatures.values():
        for key in trusted:
            try:
                by = verify_files(signed, signature, key)
            except UntrustedVersion as error:
                reasons.append(error.message)
            else:
                return Signature(version.qualified, by, str(key), key.identity)
    raise UntrustedVersion(
        f"{version.qualified} must be signed by {keys}, and of {len(signatures)} signatures none is: {reasons[0]}",
        remedy,
    )


def _signed(files: VersionFiles, artifact: bytes) -> dict[str, bytes]:
    described = files.card()
    return {files.artifact_name: artifact} | ({} if described is None else {card.FILE: described})
