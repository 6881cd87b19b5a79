"""Signatures of versions by OpenSSF Model Signing: who vouches for the files of a version."""

from zfleet_registry.signatures.keys import TrustedKey, trusted_key
from zfleet_registry.signatures.library import trusted_keys
from zfleet_registry.signatures.signer import Signer
from zfleet_registry.signatures.versions import Signature, sign_version, verify_version

__all__ = ["Signature", "Signer", "TrustedKey", "sign_version", "trusted_key", "trusted_keys", "verify_version"]
