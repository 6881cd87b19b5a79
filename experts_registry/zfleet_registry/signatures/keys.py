"""Whom a signature may be by: a public key, or the certificates of an authority."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zfleet.errors import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Those that Model Signing knows."""
_REMEDY = f"give the PEM of a public key of the curve {', '.join(_CURVES)}, or of an authority's certificates"


@dataclass(frozen=True)
class TrustedKey:
    """A public key, or certificates: every signature by a certificate that they issued is trusted.

    Attributes:
        text: The PEM.
        kind: Which of the two.
        identity: The sha256 of the public key in PEM; for certificates, of the first one's.
    """

    text: str
    kind: Literal["key", "certificate"]
    identity: str

    def __str__(self) -> str:
        return f"{self.kind} {self.identity[:12]}"


def trusted_key(text: str) -> TrustedKey:
    """Read the PEM of a public key or of certificates.

    Raises:
        RegistryError: It is neither, or of another kind of key than elliptic curves.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kind: Literal["key", "certificate"] = "certificate" if "BEGIN CERTIFICATE" in text else "key"
    key: PublicKeyTypes | CertificatePublicKeyTypes
    try:
        if kind == "certificate":
            key = x509.load_pem_x509_certificates(text.encode())[0].public_key()
        else:
            key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RegistryError("this is no public key and no certificate", _REMEDY) from error
    # An authority may have any key; those that sign versions are checked where they sign.
    if kind == "key" and not (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES):
        raise RegistryError("this public key is of another kind than signatures are made with", _REMEDY)
    return TrustedKey(text, kind, identity_of(key))


def identity_of(key: PublicKeyTypes | CertificatePublicKeyTypes) -> str:
    """Return the sha256 of a public key in PEM, by which a signature names its key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
