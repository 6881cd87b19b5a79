"""``zfleet experts sign`` and ``verify``: who vouches for the files of a version."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from zfleet.config.public_keys import read_public_keys
from zfleet_cli.commands.experts import find_version
from zfleet_cli.options import AsJson, BaseSlug, Reference, Registry
from zfleet_cli.output import results_alone


def sign(
    reference: Reference,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key, in PEM.", show_default=False)],
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The certificate of the key's owner; none: the key alone.", show_default=False
        ),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A certificate between that one and the authority's; may be repeated.",
            show_default=False,
        ),
    ] = None,
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Sign the artifact and the card of a version; the signature is stored beside them.

    The password of an encrypted key is asked for.
    """
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.signatures import Signer, sign_version

    signer = Signer(key, certificate, tuple(chain or ()))
    if signer.encrypted:
        signer = replace(signer, password=typer.prompt(f"password of {key}", hide_input=True, err=True))
    experts = ExpertRegistry(registry)
    version = find_version(experts, reference, base)
    with results_alone():
        identity = sign_version(experts, version, signer)
    if as_json:
        typer.echo(json.dumps({"version": version.qualified, "key": identity}))
    else:
        typer.echo(f"{version.qualified}: signed by key {identity[:12]}")


def verify(
    reference: Reference,
    public_keys: Annotated[
        list[str],
        typer.Option(
            "--public-key",
            metavar="FILE",
            help="A public key, or the certificates of an authority, in PEM; may be repeated: one must have signed.",
            show_default=False,
        ),
    ],
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Verify who signed a version. Exits 1 if none of the keys did, or a signed file was changed."""
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.signatures import trusted_keys, verify_version

    trusted = trusted_keys(read_public_keys(public_keys))
    experts = ExpertRegistry(registry)
    version = find_version(experts, reference, base)
    with results_alone():
        signature = verify_version(experts.files(version), trusted)
    if as_json:
        typer.echo(json.dumps(asdict(signature)))
    else:
        typer.echo(f"{signature.version}: signed by {signature.signed_by}")
