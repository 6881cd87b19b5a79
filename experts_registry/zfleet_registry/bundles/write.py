"""Writing a bundle: one ZIP file without compression, complete or not there."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zfleet.errors import ExpertNotFound
from zfleet.files import new_file
from zfleet_registry.bundles.logs import log_lines
from zfleet_registry.bundles.manifest import MANIFEST, BundledFile, BundledLog, BundledVersion, Manifest
from zfleet_registry.references import model_name, parse
from zfleet_registry.registry import ExpertRegistry
from zfleet_registry.version import ExpertVersion


@dataclass(frozen=True)
class WrittenBundle:
    """What was written.

    Attributes:
        versions: Parents before what was made from them.
        sha256: Of the manifest, which has the digest of each file: the identity of the whole bundle.
    """

    versions: tuple[ExpertVersion, ...]
    sha256: str


def write_bundle(registry: ExpertRegistry, versions: Sequence[ExpertVersion], path: Path) -> WrittenBundle:
    """Write versions and all their parents that the registry still has.

    Args:
        registry: The registry that has them.
        versions: Experts and dispatchers of any bases.
        path: The new file. One version at a time is in memory.

    Raises:
        CorruptArtifact: A version's file is damaged.
        RegistryUnreachable: The registry does not answer.
        OSError: The disk is full.
    """
    found = with_parents(registry, versions)
    entries: list[BundledVersion] = []
    members: set[str] = set()
    with new_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as bundle:
        for version in found:
            # Loaded for its checks. The file itself is written, so that signatures hold.
            _ = registry.load_dispatcher(version) if version.is_dispatcher else registry.load(version)
            files = registry.files(version)
            data, signed = files.artifact(), files.signed()
            beside = {} if signed is None else signed.beside
            entry = BundledVersion(
                name=version.name,
                base_slug=version.base_slug,
                version=version.version,
                aliases=version.aliases,
                created=version.created,
                provenance=version.provenance.to_strings(),
                sha256=hashlib.sha256(data).hexdigest(),
                size=len(data),
                beside=tuple(
                    BundledFile(path=path, sha256=hashlib.sha256(file).hexdigest(), size=len(file))
                    for path, file in beside.items()
                ),
            )
            contents = {entry.member: data} | {one.member: beside[one.path] for one in entry.beside}
            for member, content in contents.items():
                if member not in members:
                    members.add(member)
                    bundle.writestr(_member(member), content)
            entries.append(entry)
        logs = []
        for slug, name in dict.fromkeys((version.base_slug, version.name) for version in found):
            if data := log_lines(registry.log(slug, name).entries()):
                log = BundledLog(expert=model_name(slug, name), sha256=hashlib.sha256(data).hexdigest(), size=len(data))
                bundle.writestr(_member(log.member), data)
                logs.append(log)
        manifest = Manifest(versions=tuple(entries), logs=tuple(logs)).model_dump_json(indent=1).encode()
        bundle.writestr(_member(MANIFEST), manifest)
    return WrittenBundle(tuple(found), hashlib.sha256(manifest).hexdigest())


def with_parents(registry: ExpertRegistry, versions: Sequence[ExpertVersion]) -> list[ExpertVersion]:
    """Return versions and all that they were made from, parents first; those that are not there any more are left out.

    A parent counts only with the very z that its child was made from.
    """
    found: dict[str, ExpertVersion] = {}
    under_way: set[str] = set()

    def add(version: ExpertVersion) -> None:
        if version.qualified in under_way:
            return
        under_way.add(version.qualified)
        for parent in version.provenance.parents:
            base = parse(parent.reference).base_slug or version.base_slug
            try:
                origin = registry.resolve(parent.reference, base)
            except ExpertNotFound:
                continue
            if origin.z_digest == parent.z_digest:
                add(origin)
        found[version.qualified] = version

    for version in versions:
        add(version)
    return list(found.values())


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    # For people who unpack it: files that others may read.
    info.external_attr = 0o644 << 16
    return info
