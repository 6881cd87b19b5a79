"""What a registry contains, read once for all checks, and with records that cannot be read as what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import artifacts, catalog, z_file
from zfleet_registry.aliases import Aliases
from zfleet_registry.connect import Connection
from zfleet_registry.log import Break, Entry
from zfleet_registry.log.store import expert_of_log, log_model
from zfleet_registry.version import ExpertVersion, from_mlflow, is_ours
from zfleet_registry.version_files import VersionFiles

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Layout = tuple[tuple[str, int], ...]
"""(matrix, rank) of each matrix of a z, sorted."""


class Expert:
    """An expert or a dispatcher of a registry.

    Args:
        connection: The registry.
        name: Its registered model: ``lab-1a2b3c4d.math``.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.aliases = Aliases(connection, name)
        self._connection = connection

    @cached_property
    def records(self) -> list[ModelVersion]:
        """MLflow's records of its versions."""
        with self._connection.answering(f"read the versions of {self.name}"):
            found = catalog.all_versions(self._connection.client, f"name = '{self.name}'")
            return [record for record in found if is_ours(record)]

    @cached_property
    def versions(self) -> list[ExpertVersion]:
        """Its versions whose records can be read."""
        return [version for record in self.records if (version := readable(record)) is not None]

    @cached_property
    def numbers(self) -> set[int]:
        """The numbers of all its versions."""
        return {int(record.version) for record in self.records}

    @cached_property
    def entries(self) -> list[Entry | Break]:
        """Its log."""
        return list(self.aliases.log.entries())

    @cached_property
    def registered(self) -> dict[int, Entry]:
        """{version: the newest entry of the log that records its registration}."""
        return {
            entry.action.version: entry
            for entry in self.entries
            if isinstance(entry, Entry) and entry.action.what == "register" and entry.action.version is not None
        }

    @cached_property
    def has_deleted(self) -> bool:
        """Whether some version was deleted: the log or the numbers have more than there are."""
        entries = [entry for entry in self.entries if isinstance(entry, Entry) and entry.action.what == "register"]
        gaps = max(self.numbers, default=0) > len(self.numbers)
        return gaps or len(entries) > len(self.registered) or bool(self.registered.keys() - self.numbers)


class Contents:
    """All experts of a registry. What was read stays: make another one to read again.

    Args:
        connection: The registry.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._loaded: dict[str, Layout | RegistryError | None] = {}
        self._names: dict[str, str] = {}

    @cached_property
    def experts(self) -> list[Expert]:
        """Its experts and dispatchers, also those of which only the log is left."""
        with self.connection.answering("list experts"):
            names = {model.name for model in catalog.all_models(self.connection.client, "")}
        logged = {name: expert for name in names if (expert := expert_of_log(name)) is not None}
        found = [Expert(self.connection, name) for name in sorted((names - logged.keys()) | set(logged.values()))]
        return [expert for expert in found if log_model(expert.name) in logged or expert.records]

    @property
    def versions(self) -> Iterator[ExpertVersion]:
        """Yield every version whose record can be read."""
        for expert in self.experts:
            yield from expert.versions

    def files(self, version: ExpertVersion) -> VersionFiles:
        """Return the files of a version in the store: what this machine downloaded before proves nothing about it."""
        return VersionFiles(self.connection, version, cache=False)

    def loaded(self, version: ExpertVersion) -> Layout | RegistryError | None:
        """Load a version; return the layout of its z (None for a dispatcher), or why it cannot be loaded."""
        if version.qualified not in self._loaded:
            self._loaded[version.qualified] = self._load(version)
        return self._loaded[version.qualified]

    def name_in_file(self, version: ExpertVersion) -> str:
        """Return the name that a loaded version's file has in itself; empty if it has none."""
        return self._names[version.qualified]

    def _load(self, version: ExpertVersion) -> Layout | RegistryError | None:
        try:
            with self.connection.answering(f"load {version.qualified}"):
                files = self.files(version)
                content = artifacts.load(files)
                self._names[version.qualified] = z_file.name_in(files.artifact())
        except RegistryError as error:
            return error
        if not isinstance(content, ZVector):
            return None
        return tuple(sorted((name, value.numel()) for name, value in content.values.items()))


def readable(record: ModelVersion) -> ExpertVersion | None:
    """Return the version that a record is of; None if its tags are not complete."""
    try:
        return from_mlflow(record, {})
    except RegistryError:
        return None
