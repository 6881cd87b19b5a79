"""The outcome of a finished run, stored so that the same searches are not run again.

Nothing in the file is believed: the scores of the trials are replayed to new searches, generation by generation,
and the outcome must be the stored one.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from zfleet.errors import CheckpointError, ZfleetError
from zfleet_jobs.search.searcher import ChunkSearcher

FINISHED = "finished.json"
_LOG = logging.getLogger(__name__)


def write_finished(searcher: ChunkSearcher, folder: Path) -> None:
    """Write the outcome of a run whose searches all came to their end."""
    searcher.save(str(folder / FINISHED))


def read_finished(searcher: ChunkSearcher, folder: Path) -> bool:
    """Take over the outcome of a finished run, with no Tune run and no cluster.

    Args:
        searcher: The searches at their start; afterwards at their end, if there is an outcome.
        folder: The run's, named by a digest of all that the outcome depends on.

    Returns:
        Whether there is one. A file that is damaged is none; a warning says so.
    """
    if not (folder / FINISHED).exists():
        return False
    stored, replayed = copy.deepcopy(searcher), copy.deepcopy(searcher)
    try:
        stored.restore(str(folder / FINISHED))
        for name, records in stored.records.items():
            for record in records:
                replayed.on_trial_result("", {"search": name, **record})
        if not replayed.finished or _outcome(replayed) != _outcome(stored):
            raise CheckpointError(f"the scores in {FINISHED} do not lead to its outcome", "search again")
    except (ZfleetError, ValueError, LookupError, TypeError, AttributeError) as error:
        _LOG.warning("the finished search in %s is not used and runs again: %s", folder, error)
        return False
    searcher.restore(str(folder / FINISHED))
    return True


def _outcome(searcher: ChunkSearcher) -> list[object]:
    return [searcher.records, {name: search.to_json() for name, search in searcher.searches.items()}]
