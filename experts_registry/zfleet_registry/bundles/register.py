"""Registering what a bundle holds. Versions get new numbers, and what refers to them refers to the new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from zfleet.adapt.stored import StoredDispatcher
from zfleet.svf.zvector import ZVector
from zfleet_registry.bundles.manifest import BundledVersion
from zfleet_registry.bundles.read import Bundle
from zfleet_registry.provenance import Provenance
from zfleet_registry.references import parse, split_slug
from zfleet_registry.registry import ExpertRegistry
from zfleet_registry.version import ExpertVersion


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a bundle, and what it is here.

    Attributes:
        bundled: Its reference in the registry that it comes from.
        registered: Its reference here.
        new: Whether it was registered now; else this registry had it.
        aliases: Those that it had there. None is set here: which version answers is this registry's decision.
    """

    bundled: str
    registered: str
    new: bool
    aliases: tuple[str, ...]


def register_bundle(registry: ExpertRegistry, bundle: Bundle) -> list[RegisteredVersion]:
    """Register every version of a verified bundle that is not here yet, parents first.

    A version is here if the same name of the same base has the same z, or the same dispatcher. Registering a bundle
    again, or one that was interrupted, registers only what is missing. Files of signed versions are kept as they are,
    with their signatures.

    Raises:
        FormatError: The file was changed since it was opened.
        RegistryError: The registry refused.
        RegistryUnreachable: The registry does not answer.
    """
    # The newest of each: the list is in order.
    here = {_identity(one.base_slug, one.name, one.provenance): one for one in registry.list()}
    renamed: dict[str, ExpertVersion] = {}
    rows = []
    for bundled in bundle.manifest.versions:
        bundled_content, provenance = bundle.content(bundled)
        content, provenance = _translated(bundled_content, provenance, bundled, renamed)
        identity = _identity(bundled.base_slug, bundled.name, provenance)
        known = here.get(identity)
        version = known or registry.register(
            bundled.name,
            content,
            replace(provenance, imported_from=_origin(bundle, bundled, provenance)),
            base_name=split_slug(bundled.base_slug)[0],
            # A dispatcher that refers to other numbers here is not what was signed.
            signed=bundle.signed(bundled) if content.digest == bundled_content.digest else None,
        )
        here[identity] = renamed[bundled.qualified] = version
        rows.append(RegisteredVersion(bundled.qualified, version.qualified, known is None, bundled.aliases))
    return rows


def _identity(base_slug: str, name: str, provenance: Provenance) -> tuple[str, str, str, str]:
    return base_slug, name, provenance.z_digest, provenance.dispatcher_digest


def _origin(bundle: Bundle, bundled: BundledVersion, provenance: Provenance) -> str:
    origin = f"{bundled.qualified} of {bundle.origin}"
    return f"{origin}; {provenance.imported_from}" if provenance.imported_from else origin


def _translated(
    content: ZVector | StoredDispatcher,
    provenance: Provenance,
    bundled: BundledVersion,
    renamed: Mapping[str, ExpertVersion],
) -> tuple[ZVector | StoredDispatcher, Provenance]:
    """Refer to this registry's versions of what the bundle holds."""

    def new(reference: str) -> str:
        own = parse(reference).base_slug
        version = renamed.get(reference if own else f"{bundled.base_slug}.{reference}")
        if version is None:
            return reference
        return version.qualified if own else version.reference

    parents = tuple(replace(parent, reference=new(parent.reference)) for parent in provenance.parents)
    provenance = replace(provenance, parents=parents)
    if isinstance(content, StoredDispatcher):
        document = content.document.renamed({reference: new(reference) for reference in content.document.experts})
        content = replace(content, document=document)
        provenance = replace(provenance, dispatcher_digest=content.digest)
    return content, provenance
