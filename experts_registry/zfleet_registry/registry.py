"""``ExpertRegistry``: experts and dispatchers by name, version and alias, over MLflow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import AccessDenied, RegistryError
from zfleet.paths import REGISTRY_FOLDER
from zfleet.svf.zvector import ZVector
from zfleet_registry import artifacts, catalog, lookup, references
from zfleet_registry.access import Access
from zfleet_registry.aliases import Aliases
from zfleet_registry.log import Action, ExpertLog
from zfleet_registry.log.store import log_model
from zfleet_registry.lookup import Page
from zfleet_registry.missing import no_expert, no_version
from zfleet_registry.next_version import check_next
from zfleet_registry.promotion.traffic import Traffic, check_no_traffic, traffic_of
from zfleet_registry.provenance import Provenance, Registration, card
from zfleet_registry.provenance.secrets import refuse_secrets
from zfleet_registry.references import Reference, model_name
from zfleet_registry.runs import REGISTRATIONS, RunLog
from zfleet_registry.shared_calls import SharedCalls
from zfleet_registry.signatures import trusted_keys, verify_version
from zfleet_registry.version import ExpertVersion, from_mlflow, to_tags
from zfleet_registry.version_files import SignedFiles, VersionFiles
from zfleet_registry.watch import Cursor, Watch, Webhooks

logger = logging.getLogger(__name__)

RUN_NAME = "register "
"""What the names of runs begin with that registrations start; the registered model follows."""

# Inside the class ``list`` is a method.
Versions = list[ExpertVersion]


class ExpertRegistry(RunLog):
    """The experts of one MLflow registry, with their runs. Several threads and processes may use it at once.

    Arguments and errors are those of ``RunLog``.

    Args:
        require_signed_by: Public keys and certificates in PEM: a version that none of them signed is not loaded.
    """

    def __init__(
        self,
        uri: str | None = None,
        root: Path = Path(REGISTRY_FOLDER),
        *,
        reading: bool = False,
        require_signed_by: Sequence[str] = (),
    ) -> None:
        self._trusted = trusted_keys(require_signed_by)
        super().__init__(uri, root, reading=reading)
        self._shared = SharedCalls()

    def register(
        self,
        name: str,
        content: ZVector | StoredDispatcher,
        provenance: Provenance,
        *,
        base_name: str,
        run_id: str | None = None,
        alias: str | None = None,
        signed: SignedFiles | None = None,
    ) -> ExpertVersion:
        """Store the next version of an expert or a dispatcher. The file is complete before the version exists.

        Args:
            name: The expert or the dispatcher, such as ``math``.
            content: The expert's z, or the dispatcher.
            provenance: The provenance of this content.
            base_name: The base's name; with the fingerprint it makes the base's slug.
            run_id: The run that made it; None starts a run for the registration.
            alias: An alias to point at the new version.
            signed: The files of a signed version of this content, to be kept as they are.

        Raises:
            RegistryError: The name, alias or provenance cannot be used, the provenance contains a secret or names this
                very version as its parent, or MLflow refused.
            AccessDenied: The user may not register. If only the alias is refused, the version stays registered.
            RegistryUnreachable: The registry does not answer.
        """
        # Imported late: transformers takes two seconds, and resolving and loading do not need it.
        from zfleet.models.base import base_slug as slug_of

        provenance.check(content)
        refuse_secrets(provenance.to_strings())
        slug = slug_of(base_name, provenance.base)
        references.check_name(name)
        references.check_slug(slug)
        model = model_name(slug, name)
        if alias is not None:
            references.check_alias(alias)
            self.aliases(slug, name).check_unprotected(alias)
        check_next(self._connection, slug, name, provenance)
        owner = run_id or self.start_run(RUN_NAME + model, experiment=REGISTRATIONS)
        try:
            with self._connection.answering(f"register {model}", "write"):
                registration = Registration(base_name, owner)
                path, sha256 = artifacts.store(self._connection, model, content, provenance, registration, signed)
                tags = to_tags(name, slug, provenance, registration, path, sha256)
                source = f"{self._client.get_run(owner).info.artifact_uri}/{path.rpartition('/')[0]}"
                text = card.description(model, provenance, registration)
                about = f"Made by zfleet. Who moved its aliases, and why: [the log](#/models/{log_model(model)})."
                created = catalog.create_version(
                    self._client, model, source, tags, about=about, run_id=owner, description=text
                )
        except BaseException:
            if run_id is None:
                # Ending the run may fail for the same reason, for example the connection. Show the first error.
                with suppress(RegistryError):
                    self.end_run(owner, "FAILED")
            raise
        if run_id is None:
            self.end_run(owner)
        version = from_mlflow(created, {})
        digests = {"z_digest": version.z_digest, "artifact_sha256": sha256}
        try:
            self.log(slug, name).append(Action("register", model, version=version.version, data=digests))
        except AccessDenied as error:
            # A right to write is enough: the version itself says who registered it, and when.
            logger.warning("%s is registered, but not in its log: %s", version.qualified, error.message)
        return version if alias is None else self.set_alias(version, alias)

    def resolve(self, reference: str, base_slug: str | None = None) -> ExpertVersion:
        """Return the version that a reference means.

        Args:
            reference: ``math`` (the champion if there is one, else the newest version), ``math/3``,
                ``math@champion``; a base qualifies it: ``lab-1a2b3c4d.math``.
            base_slug: The base of an unqualified reference.

        Raises:
            RegistryError: The text is not a reference, or an unqualified one has no base.
            ExpertNotFound: There is no such expert, version or alias; says which exist.
        """
        parsed = references.parse(reference)
        slug = parsed.base_slug or base_slug
        if slug is None:
            raise RegistryError(f"{reference!r} names no base", "write lab-1a2b3c4d.math, or name the base")
        return self._shared(("resolve", slug, parsed), lambda: self._resolve(reference, parsed, slug))

    def load(self, version: ExpertVersion) -> ZVector:
        """Fetch an expert's z and verify it completely: the file, finiteness, shapes and tags.

        Raises:
            CorruptArtifact: The file is damaged or contradicts the tags; names the version and the file.
            UntrustedVersion: It must be signed, and is not.
            RegistryError: The version is a dispatcher.
            RegistryUnreachable: The registry does not answer.
        """
        content = self._load(version)
        if isinstance(content, ZVector):
            return content
        raise RegistryError(f"{version.qualified} is a dispatcher, which has no z", "name an expert")

    def load_dispatcher(self, version: ExpertVersion) -> StoredDispatcher:
        """Fetch a dispatcher and verify it completely.

        Raises:
            CorruptArtifact: The file is damaged or contradicts the tags; names the version and the file.
            UntrustedVersion: It must be signed, and is not.
            RegistryError: The version is an expert.
            RegistryUnreachable: The registry does not answer.
        """
        content = self._load(version)
        if isinstance(content, StoredDispatcher):
            return content
        raise RegistryError(f"{version.qualified} is an expert, not a dispatcher", "name what `calibrate` registered")

    def files(self, version: ExpertVersion) -> VersionFiles:
        """Return the files of a version in the store."""
        return VersionFiles(self._connection, version)

    def log(self, base_slug: str, name: str) -> ExpertLog:
        """Return the log of an expert: who did what to it, and when."""
        return self.aliases(base_slug, name).log

    def watch(self, since: Cursor | None = None, webhooks: Webhooks | None = None) -> Watch:
        """Follow new versions, moves of aliases and changes of traffic, each at most two seconds late. Close it.

        Args:
            since: The ``cursor`` of an earlier watch, to get all that it did not; None: what changes from now on.
            webhooks: Where the tracking server's webhooks are received, which say at once that something changed.

        Raises:
            RegistryError: The port cannot be listened on, or the registry is a database, which sends no webhooks.
            RegistryUnreachable: The registry does not answer now; later, the watch waits for it.
        """
        watch = Watch(self._connection, since)
        if webhooks is not None:
            # Imported late: only this needs an HTTP server.
            from zfleet_registry.watch.subscription import subscribe

            watch.on_close(subscribe(self._connection, webhooks, watch.wake))
        return watch

    def aliases(self, base_slug: str, name: str) -> Aliases:
        """Return the aliases of an expert, and how they are moved."""
        return Aliases(self._connection, model_name(base_slug, name))

    def traffic(self, base_slug: str, name: str) -> Traffic:
        """Return which aliases share an expert's traffic.

        Raises:
            RegistryError: What is stored cannot be read.
            RegistryUnreachable: The registry does not answer.
        """
        return traffic_of(self.aliases(base_slug, name))

    def access(self, base_slug: str, name: str) -> Access:
        """Return the rights of a tracking server's users on an expert."""
        return Access(self._connection, model_name(base_slug, name))

    def set_alias(self, version: ExpertVersion, alias: str, why: str = "") -> ExpertVersion:
        """Point an alias at a version. In the same step, it leaves the version that had it.

        Args:
            version: The version.
            alias: The alias; one with a gate is moved by ``promotion.promote``.
            why: For the log.

        Returns:
            The version with its present aliases.

        Raises:
            RegistryError: The alias cannot be set, or has a gate.
            ExpertNotFound: The version does not exist any more.
        """
        references.check_alias(alias)
        aliases = self.aliases(version.base_slug, version.name)
        aliases.check_unprotected(alias, version.version)
        with self._connection.answering(f"look for {version.qualified}"):
            missing = catalog.find_version(self._client, aliases.expert, version.version) is None
        if missing:
            raise no_version(self._others, f"version {version.version}", version.name, version.base_slug)
        found = aliases.present().get(alias)
        if found != version.version or aliases.log.state.version_of(alias) != found:
            aliases.move(Action("set", aliases.expert, alias, version.version, found=found, why=why))
        return self.resolve(version.qualified)

    def offer(self, version: ExpertVersion, alias: str) -> ExpertVersion:
        """Point an alias at a version unless it has a gate, or others alone may: then say how to promote the version.

        Jobs call this, which would otherwise fail after all their work.
        """
        command = f"zfleet experts promote {version.qualified} --to {alias}"
        try:
            if alias not in self.log(version.base_slug, version.name).state.gates:
                return self.set_alias(version, alias)
            reason, command = f"{alias} has a gate", f"{command} --evaluate SPEC"
        except AccessDenied as error:
            reason = f"{error.message}, but others may"
        logger.warning("%s is registered; %s, so promote it: %s", version.qualified, reason, command)
        return version

    def drop_alias(self, version: ExpertVersion, alias: str, why: str = "") -> ExpertVersion:
        """Remove an alias from a version; the version stays.

        Returns:
            The version with its present aliases.

        Raises:
            ExpertNotFound: The version does not have this alias.
            RegistryError: The alias has a gate, or traffic.
        """
        current = self.resolve(version.qualified)
        if alias not in current.aliases:
            raise no_version(
                self._others, f"alias {alias!r} on version {version.version}", version.name, version.base_slug
            )
        aliases = self.aliases(version.base_slug, version.name)
        aliases.check_unprotected(alias)
        check_no_traffic(aliases, alias)
        aliases.move(Action("drop", aliases.expert, alias, found=version.version, why=why))
        return self.resolve(version.qualified)

    def list(self, base_slug: str | None = None) -> Versions:
        """Return every version of all that a base, or any base, has, sorted by base, name and version."""
        with self._connection.answering("list experts"):
            return lookup.all_of(self._client, base_slug)

    def page(self, base_slug: str | None = None, *, limit: int, after: str = "") -> Page:
        """Return at most ``limit`` versions of a list in pages, with where the next page begins.

        Args:
            base_slug: The base; None: any.
            limit: The most versions.
            after: ``Page.after`` of the page before; empty: the first page.
        """
        with self._connection.answering("list experts"):
            return lookup.page(self._client, base_slug, limit, after)

    def bases_of(self, name: str) -> set[str]:
        """Return the slugs of the bases that have an expert of this name."""
        references.check_name(name)
        with self._connection.answering(f"look for {name}"):
            return lookup.bases_of(self._client, name)

    def find(self, name: str, z: ZVector) -> ExpertVersion | None:
        """Return the newest version of an expert that has exactly this z; None if there is none."""
        references.check_name(name)
        with self._connection.answering(f"look for the z of {name}"):
            return lookup.of_z(self._client, name, z.digest)

    def _resolve(self, reference: str, parsed: Reference, slug: str) -> ExpertVersion:
        with self._connection.answering(f"resolve {reference!r}"):
            found = lookup.find(self._client, parsed, slug)
            if found is not None:
                return found
            if catalog.find_model(self._client, model_name(slug, parsed.name)) is None:
                raise no_expert(self._others, parsed.name, slug, self.address)
        missing = "version" if parsed.version is None else f"version {parsed.version}"
        what = missing if parsed.alias is None else f"alias {parsed.alias!r}"
        raise no_version(self._others, what, parsed.name, slug)

    def _others(self) -> Versions | None:
        """List what exists, for an error. A service does not tell its clients what else exists."""
        return None if self._connection.reading else self.list()

    def _load(self, version: ExpertVersion) -> ZVector | StoredDispatcher:
        def load() -> ZVector | StoredDispatcher:
            with self._connection.answering(f"load {version.qualified}"):
                files = self.files(version)
                content = artifacts.load(files)
                if self._trusted:
                    verify_version(files, self._trusted)
                return content

        return self._shared(("load", version.qualified, version.artifact_sha256), load)
