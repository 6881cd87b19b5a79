"""The outcome of a finished run, stored so that the same searches are not run again.

Nothing in the file is believed but the answers: they are told to new searches, round by round, and the outcome follows.
"""

from __future__ import annotations

import logging
from pathlib import Path

from zfleet.errors import CheckpointError
from zfleet_jobs.search.searcher import ChunkSearcher

FINISHED = "finished.json"
_LOG = logging.getLogger(__name__)


def write_finished(searcher: ChunkSearcher, folder: Path) -> None:
    """Write the outcome of a run whose searches all came to their end."""
    searcher.save(str(folder / FINISHED))


def read_finished(searcher: ChunkSearcher, folder: Path) -> ChunkSearcher | None:
    """Read the outcome of a finished run, with no Tune run and no cluster.

    Args:
        searcher: The searches at their start, which stay there.
        folder: The run's, named by a digest of all that the outcome depends on.

    Returns:
        The searches at their end; None if there is no outcome. A file that is damaged is none; a warning says so.
    """
    if not (folder / FINISHED).exists():
        return None
    stored = ChunkSearcher(searcher.searches, chunks=searcher.chunks)
    try:
        stored.restore(str(folder / FINISHED))
        if not stored.finished:
            raise CheckpointError(f"the answers in {FINISHED} do not lead to an outcome", "search again")
    except CheckpointError as error:
        _LOG.warning("the finished search in %s is not used and runs again: %s", folder, error)
        return None
    return stored
