"""The z table of vLLM's workers, as the engine counts it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from zfleet.engine.z_table import ZEntry, ZTable


class SentTable(ZTable):
    """Notes which z nobody knows or uses any more, for the workers to forget."""

    def __init__(self, size: int, rows: int, forgotten: list[str]) -> None:
        super().__init__(size, rows)
        self._forgotten = forgotten

    @contextmanager
    def using(self, digests: Iterable[str]) -> Iterator[list[ZEntry]]:
        """Keep z-vectors known inside the block, also if they are dropped meanwhile.

        Raises:
            UnknownZ: A digest is not known.
        """
        entries: list[ZEntry] = []
        try:
            for digest in digests:
                entries.append(self.use(digest))
            yield entries
        finally:
            for entry in entries:
                self.unuse(entry)

    def forget(self, digest: str) -> None:
        self._forgotten.append(digest)
