"""Register many files of experts: in parallel where the registry allows, and only those that are not there yet."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from zfleet.errors import FormatError, RegistryError, RegistryUnreachable, ZfleetError
from zfleet_registry import z_file
from zfleet_registry.references import parse, split_slug
from zfleet_registry.registry import ExpertRegistry
from zfleet_registry.runs import REGISTRATIONS

_WRITERS = 8
"""Threads, where the registry is a server. A sqlite file has one writer at a time."""


@dataclass(frozen=True)
class FileOutcome:
    """What became of a file.

    Attributes:
        file: The file.
        version: The version that has its z, qualified by the base; empty if there is none.
        new: Whether it was registered now.
        error: Why it was not registered; empty if it was, or was there.
    """

    file: Path
    version: str
    new: bool
    error: str = ""


def import_files(registry: ExpertRegistry, files: Sequence[Path]) -> Iterator[FileOutcome]:
    """Register the experts in files that say their names, and yield what became of each file as it is done.

    The versions of one expert get their numbers in the order of ``files``; different experts are registered in
    parallel. A z that its expert has already is not registered again: an import that was interrupted goes on where it
    stopped. A file that cannot be registered stops no other one. All versions belong to one run.

    Args:
        registry: The registry.
        files: What `zfleet experts export` or a registry wrote.

    Raises:
        RegistryError: The registry refused before the first file.
        RegistryUnreachable: The registry does not answer before the first file.
    """
    importing = _Importing(registry, files)
    yield from importing.outcomes()


class _Importing:
    def __init__(self, registry: ExpertRegistry, files: Sequence[Path]) -> None:
        self._registry = registry
        self._files = files
        self._here = {(one.base_slug, one.name, one.z_digest): one.qualified for one in registry.list()}
        self._done: SimpleQueue[FileOutcome | RegistryUnreachable] = SimpleQueue()
        self._stopped = False
        self._starting = threading.Lock()
        self._run = ""

    def outcomes(self) -> Iterator[FileOutcome]:
        """Import everything; stop if the reader does."""
        of_expert = defaultdict(list)
        for file in self._files:
            of_expert[z_file.name_in(z_file.read_head(file))].append(file)
        finished = False
        pool = ThreadPoolExecutor(_WRITERS if self._registry.takes_writers_at_once else 1, "import")
        try:
            for some in of_expert.values():
                pool.submit(self._import_all, some)
            for _ in self._files:
                outcome = self._done.get()
                if isinstance(outcome, RegistryUnreachable):
                    raise outcome
                yield outcome
            finished = True
        finally:
            self._stopped = True
            pool.shutdown(cancel_futures=True)
            if self._run:
                with nullcontext() if finished else suppress(RegistryError):
                    self._registry.end_run(self._run, "FINISHED" if finished else "KILLED")

    def _import_all(self, files: Sequence[Path]) -> None:
        """Import the files of one expert, in order."""
        for file in files:
            if self._stopped:
                return
            try:
                self._done.put(self._import(file))
            except RegistryUnreachable as error:
                self._done.put(error)
                return
            except Exception as error:
                reason = str(error) if isinstance(error, ZfleetError) else f"{type(error).__name__}: {error}"
                self._done.put(FileOutcome(file, "", False, reason))

    def _import(self, file: Path) -> FileOutcome:
        z, full, provenance = z_file.read(file)
        named = parse(full) if full else None
        if named is None or named.base_slug is None:
            raise FormatError(f"{file} says no name, or no base", "import it alone: --base MODEL --name math")
        base_name, digits = split_slug(named.base_slug)
        if digits != z.base[: len(digits)]:
            raise FormatError(f"{file} is named {full}, and its z belongs to base {z.base[:12]}", "import it alone")
        key = (named.base_slug, named.name, z.digest)
        if key in self._here:
            return FileOutcome(file, self._here[key], False)
        version = self._registry.register(named.name, z, provenance, base_name=base_name, run_id=self._the_run())
        self._here[key] = version.qualified
        return FileOutcome(file, version.qualified, True)

    def _the_run(self) -> str:
        with self._starting:
            if not self._run:
                self._run = self._registry.start_run("import", experiment=REGISTRATIONS)
            return self._run
