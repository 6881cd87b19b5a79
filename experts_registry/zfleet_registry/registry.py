"""``ExpertRegistry``: experts and dispatchers by name, version and alias, over MLflow."""

from __future__ import annotations

import logging
from contextlib import suppress

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import AccessDenied, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import artifacts, catalog, references
from zfleet_registry.log import Action
from zfleet_registry.log.store import log_model
from zfleet_registry.missing import no_version
from zfleet_registry.next_version import check_next
from zfleet_registry.promotion.traffic import check_no_traffic
from zfleet_registry.provenance import Provenance, Registration, card
from zfleet_registry.provenance.secrets import refuse_secrets
from zfleet_registry.reader import ExpertReader
from zfleet_registry.references import model_name
from zfleet_registry.runs import REGISTRATIONS
from zfleet_registry.version import ExpertVersion, from_mlflow, to_tags
from zfleet_registry.version_files import SignedFiles

logger = logging.getLogger(__name__)

RUN_NAME = "register "
"""What the names of runs begin with that registrations start; the registered model follows."""


class ExpertRegistry(ExpertReader):
    """The experts of one MLflow registry, with their runs. Several threads and processes may use it at once.

    Arguments and errors are those of ``ExpertReader``.
    """

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
