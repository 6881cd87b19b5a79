"""Who signs: a private key in a file, alone or with the certificate that was issued for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from zfleet.errors import RegistryError
from zfleet.files import read_or
from zfleet_registry.signatures.keys import identity_of


@dataclass(frozen=True)
class Signer:
    """A private key, which is read only where it signs, and never stored or shown.

    Attributes:
        key: The file of the private key, in PEM, of an elliptic curve.
        certificate: The file of the certificate that an authority issued for it; None signs with the key alone.
        chain: The files of the certificates between this one and the authority's.
        password: Of the key; None if it is not encrypted.
    """

    key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    password: str | None = field(default=None, repr=False)

    @property
    def encrypted(self) -> bool:
        """Whether the key needs a password."""
        return b"ENCRYPTED" in _read(self.key)

    def check(self) -> str:
        """Read the key, and return the identity of its public key.

        Raises:
            RegistryError: A file cannot be read, or it is no private key, or the password is wrong or missing.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        if self.password is not None and self.certificate is not None:
            raise RegistryError(
                f"the key {self.key} is encrypted, and Model Signing takes no password with a certificate",
                "sign with a key that is not encrypted, in a file that only you can read",
            )
        password = None if self.password is None else self.password.encode()
        data = _read(self.key)
        try:
            return identity_of(load_pem_private_key(data, password).public_key())
        # The libraries' own text may quote the file.
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise RegistryError(
                f"{self.key} is no private key that can be used, or its password is another one",
                "give the PEM of a private key of an elliptic curve: openssl ecparam -name prime256v1 -genkey -noout",
            ) from None


def _read(file: Path) -> bytes:
    return read_or(file, lambda error: RegistryError(f"{file} cannot be read: {error.strerror}", "check the path"))
