"""What is read from a registry: which version a name means, its files, its log, and what changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import RegistryError
from zfleet.paths import REGISTRY_FOLDER
from zfleet.svf.zvector import ZVector
from zfleet_registry import artifacts, catalog, lookup, references
from zfleet_registry.access import Access
from zfleet_registry.aliases import Aliases
from zfleet_registry.log import ExpertLog
from zfleet_registry.lookup import Page
from zfleet_registry.missing import no_expert, no_version
from zfleet_registry.promotion.traffic import Traffic, traffic_of
from zfleet_registry.references import Reference, model_name
from zfleet_registry.runs import RunLog
from zfleet_registry.shared_calls import SharedCalls
from zfleet_registry.signatures import trusted_keys, verify_version
from zfleet_registry.version import ExpertVersion
from zfleet_registry.version_files import VersionFiles
from zfleet_registry.watch import Cursor, Watch, Webhooks

# Inside the class ``list`` is a method.
Versions = list[ExpertVersion]


class ExpertReader(RunLog):
    """Reads the experts of one MLflow registry. Several threads and processes may use it at once.

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
