"""``ExpertRegistry``: experts by name, version and alias, over MLflow."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress

from zfleet.config.names import CHAMPION
from zfleet.errors import ExpertNotFound, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import artifacts, catalog, references
from zfleet_registry.provenance import Provenance
from zfleet_registry.references import model_name
from zfleet_registry.runs import RunLog
from zfleet_registry.version import ExpertVersion, from_mlflow, is_ours, to_tags

REGISTRATIONS = "registrations"

# Inside the class ``list`` is a method.
Versions = list[ExpertVersion]


class ExpertRegistry(RunLog):
    """Experts of one MLflow registry. Several threads and processes may use it at once.

    Args:
        uri: A tracking server or database; None for sqlite and local artifacts under ``root``.
        root: Where a local registry lives; with a database server's URI, where its artifacts go.
        reading: Only ask: a local registry is not made where there is none, and hardly waited for where it is locked.

    Raises:
        RegistryUnreachable: No answer within a few seconds.
        RegistryError: A URI that cannot be used.
    """

    def register(
        self,
        name: str,
        z: ZVector,
        provenance: Provenance,
        *,
        base_name: str,
        run_id: str | None = None,
        alias: str | None = None,
    ) -> ExpertVersion:
        """Store a z as the next version of an expert. A version that exists always has its complete file.

        Args:
            name: The expert, such as ``math``.
            z: Its z.
            provenance: Where it comes from; must be this z's own.
            base_name: What people call the base; with the fingerprint it makes the base's slug.
            run_id: The run that made it; a small run of its own when left out.
            alias: An alias to point at the new version.

        Raises:
            RegistryError: A name, alias or provenance that cannot be used, or MLflow refused.
            RegistryUnreachable: The registry does not answer.
        """
        # It brings transformers, two seconds that who only resolves and loads need not wait for.
        from zfleet.models.base import base_slug as slug_of

        slug = slug_of(base_name, z.base)
        references.check_name(name)
        references.check_slug(slug)
        if alias is not None:
            references.check_alias(alias)
        provenance.check(z)
        model = model_name(slug, name)
        owner = run_id or self.start_run(f"register {model}", experiment=REGISTRATIONS)
        with self._connection.answering(f"register {model}"):
            try:
                path, sha256 = artifacts.store(self._connection, owner, model, z, provenance)
            except BaseException:
                if run_id is None:
                    # What failed may well be the connection: the first error is the one to show.
                    with suppress(RegistryError):
                        self.end_run(owner, "FAILED")
                raise
            if run_id is None:
                self.end_run(owner)
            tags = to_tags(name, slug, provenance, path, sha256)
            found = catalog.create_version(self._client, model, owner, path.rpartition("/")[0], tags)
        version = from_mlflow(found, {})
        return version if alias is None else self.set_alias(version, alias)

    def resolve(self, reference: str, base_slug: str | None = None) -> ExpertVersion:
        """Find the version that a reference means.

        Args:
            reference: ``math`` (the champion if there is one, else the newest version), ``math/3``,
                ``math@champion``; qualified by a base, ``lab-1a2b3c4d.math``, it means that base's expert.
            base_slug: The base of an unqualified reference.

        Raises:
            RegistryError: No reference, or an unqualified one without a base.
            ExpertNotFound: No such expert, version or alias; says what exists.
        """
        wanted = references.parse(reference)
        slug = wanted.base_slug or base_slug
        if slug is None:
            raise RegistryError(
                f"{reference!r} does not say of which base", "write lab-1a2b3c4d.math, or name the base"
            )
        with self._connection.answering(f"resolve {reference!r}"):
            model = catalog.find_model(self._client, model_name(slug, wanted.name))
            if model is None:
                raise self._no_expert(wanted.name, slug)
            version = wanted.version
            alias = CHAMPION if wanted.alias is None and version is None else wanted.alias
            if alias is not None and alias in model.aliases:
                version = int(model.aliases[alias])
            elif wanted.alias is not None:
                raise self._no_version(f"alias {wanted.alias!r}", wanted.name, slug)
            if version is None:
                found = catalog.newest_version(self._client, model.name)
            else:
                found = catalog.find_version(self._client, model.name, version)
            if found is None:
                raise self._no_version("version" if version is None else f"version {version}", wanted.name, slug)
            return from_mlflow(found, model.aliases)

    def load(self, version: ExpertVersion) -> ZVector:
        """Fetch a version's z and verify all of it: the file, finiteness, shapes, and what the tags say.

        Raises:
            CorruptArtifact: Names the version, the file and the remedy.
            RegistryUnreachable: The registry does not answer.
        """
        with self._connection.answering(f"load {version.qualified}"):
            return artifacts.load(self._connection, version)

    def set_alias(self, version: ExpertVersion, alias: str) -> ExpertVersion:
        """Point an alias at a version; it leaves the version that had it, at once.

        Returns:
            The version with its aliases of now.

        Raises:
            RegistryError: An alias that cannot be set.
            ExpertNotFound: The version is gone.
        """
        references.check_alias(alias)
        with self._connection.answering(f"set alias {alias!r} of {version.qualified}"):
            model = model_name(version.base_slug, version.name)
            if catalog.find_version(self._client, model, version.version) is None:
                raise self._no_version(f"version {version.version}", version.name, version.base_slug)
            catalog.point_alias(self._client, model, alias, version.version)
        return self.resolve(version.qualified)

    def drop_alias(self, version: ExpertVersion, alias: str) -> ExpertVersion:
        """Take an alias from a version; the version stays.

        Returns:
            The version with its aliases of now.

        Raises:
            ExpertNotFound: The version does not have that alias, or no longer.
        """
        current = self.resolve(version.qualified)
        if alias not in current.aliases:
            raise self._no_version(f"alias {alias!r} on version {version.version}", version.name, version.base_slug)
        with self._connection.answering(f"drop alias {alias!r} of {version.qualified}"):
            self._client.delete_registered_model_alias(model_name(version.base_slug, version.name), alias)
        return self.resolve(version.qualified)

    def list(self, base_slug: str | None = None) -> Versions:
        """Every version of every expert, of one base or of all: by base, name and version."""
        if base_slug is not None:
            references.check_slug(base_slug)
        # '_' in a slug is a wildcard of LIKE, so that the database may give more than was asked for.
        like = f"name LIKE '{base_slug}.%'" if base_slug else ""
        with self._connection.answering("list experts"):
            aliases = {model.name: model.aliases for model in catalog.all_models(self._client, like)}
            ours = filter(is_ours, catalog.all_versions(self._client, like))
            found = [from_mlflow(item, aliases.get(item.name, {})) for item in ours]
        wanted = [version for version in found if base_slug in (None, version.base_slug)]
        return sorted(wanted, key=lambda version: (version.base_slug, version.name, version.version))

    def _no_expert(self, name: str, slug: str) -> ExpertNotFound:
        missing = f"base {slug} has no expert {name!r} in {self.address}"
        if self._connection.reading:
            # A service tells its clients nothing of what else there is.
            return ExpertNotFound(missing)
        there = self.list()
        names = sorted({version.name for version in there if version.base_slug == slug})
        near = difflib.get_close_matches(name, names, n=3)
        others = sorted({version.base_slug for version in there if version.name == name})
        remedy = f"did you mean {' or '.join(near)}?" if near else f"experts of {slug}: {_some(names)}"
        if others:
            remedy += f"; {name} exists for the base {_some(others)}"
        return ExpertNotFound(missing, remedy)

    def _no_version(self, what: str, name: str, slug: str) -> ExpertNotFound:
        missing = f"expert {name!r} of {slug} has no {what}"
        if self._connection.reading:
            return ExpertNotFound(missing)
        versions = [version for version in self.list(slug) if version.name == name]
        aliases = [f"{alias} (version {version.version})" for version in versions for alias in version.aliases]
        numbers = [str(version.version) for version in reversed(versions)]
        return ExpertNotFound(missing, f"versions: {_some(numbers)}; aliases: {_some(aliases)}")


def _some(items: Sequence[str]) -> str:
    """The first ten, and how many more."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more if items else "none"
