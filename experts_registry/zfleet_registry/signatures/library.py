"""The library of Model Signing, asked to sign and to verify files in memory.

It signs the list of a folder's files with their sha256 (an in-toto statement in a DSSE envelope, as a Sigstore bundle),
and verifies a folder against that list. A signature says nothing about the folder's name: ``versions`` adds that.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zfleet.errors import RegistryError, UntrustedVersion
from zfleet_registry.signatures.keys import TrustedKey, trusted_key
from zfleet_registry.signatures.signer import Signer


def trusted_keys(texts: Sequence[str]) -> tuple[TrustedKey, ...]:
    """Read public keys and certificates, in PEM, to verify by.

    Raises:
        RegistryError: One is neither, or the library is not installed: better now than where a version is loaded.
    """
    if texts:
        _library()
    return tuple(map(trusted_key, texts))


def sign_files(files: Mapping[str, bytes], signer: Signer) -> bytes:
    """Sign files.

    Args:
        files: {name: file}.
        signer: The key, and perhaps its certificate.

    Returns:
        The signature, a Sigstore bundle in JSON.

    Raises:
        RegistryError: Key or certificate cannot be used, or the library is not installed.
    """
    library = _library()
    config = library.signing.Config().set_hashing_config(_hashing(library))
    try:
        if signer.certificate is None:
            password = None if signer.password is None else signer.password.encode()
            config.use_elliptic_key_signer(private_key=signer.key, password=password)
        else:
            config.use_certificate_signer(
                private_key=signer.key,
                signing_certificate=signer.certificate,
                # The library wants one at least. The certificate itself adds nothing.
                certificate_chain=signer.chain or (signer.certificate,),
            )
    except (OSError, ValueError, TypeError) as error:
        raise RegistryError(
            f"{signer.certificate or signer.key} cannot sign: {error}",
            "give the private key, the certificate that was issued for it, and the certificates in between, in PEM",
        ) from None
    with tempfile.TemporaryDirectory() as temporary:
        config.sign(_written(files, Path(temporary)), Path(temporary, "signature"))
        return Path(temporary, "signature").read_bytes()


def verify_files(files: Mapping[str, bytes], signature: bytes, trusted: TrustedKey) -> str:
    """Verify that a signature is by a trusted key, and of exactly these files.

    Args:
        files: {name: file}.
        signature: The signature.
        trusted: Whose signature it must be.

    Returns:
        Who signed: the subject of a certificate, or else the key.

    Raises:
        UntrustedVersion: It is not; says why.
        RegistryError: The library is not installed.
    """
    library = _library()
    config = library.verifying.Config().set_hashing_config(_hashing(library))
    with tempfile.TemporaryDirectory() as temporary:
        folder = _written(files, Path(temporary))
        pem, stored = Path(temporary, "trusted.pem"), Path(temporary, "signature")
        pem.write_text(trusted.text)
        stored.write_bytes(signature)
        try:
            if trusted.kind == "key":
                config.use_elliptic_key_verifier(public_key=pem)
            else:
                config.use_certificate_verifier(certificate_chain=[pem])
            config.verify(folder, stored)
            bundle = json.loads(signature)
            covered = _covered(bundle)
            by = _subject(bundle) if trusted.kind == "certificate" else str(trusted)
        # The library and what it is built on raise anything at all for a signature that was made up.
        except Exception as error:
            raise UntrustedVersion(f"no signature by {trusted}: {_reason(error, files, signature)}") from None
    # The signed list may name paths that are to be ignored.
    if missing := files.keys() - covered:
        raise UntrustedVersion(f"the signature by {trusted} is not of {sorted(missing)[0]}")
    return by


def _reason(error: Exception, files: Mapping[str, bytes], signature: bytes) -> str:
    """Return the library's reason; for files that differ, their names alone: the library shows the bytes of digests."""
    text = str(error) or type(error).__name__
    if not text.startswith("Signature mismatch"):
        return text
    names = files.keys() | _covered(json.loads(signature))
    return f"not as they were signed: {', '.join(sorted(name for name in names if name in text))}"


def _covered(bundle: Mapping[str, Any]) -> set[str]:
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


def _subject(bundle: Mapping[str, Any]) -> str:
    from cryptography import x509

    (first, *_) = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
    return x509.load_der_x509_certificate(base64.b64decode(first["rawBytes"])).subject.rfc4514_string()


def _written(files: Mapping[str, bytes], parent: Path) -> Path:
    folder = parent / "version"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _hashing(library: Any) -> Any:
    """Hash every file by itself, and ignore none."""
    return library.hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)


def _library() -> Any:
    # Imported late: it takes two seconds, and is an extra.
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise RegistryError(
            f"signatures need packages that are not installed: {error.name}", "pip install 'zfleet[signing]'"
        ) from None
    return model_signing
