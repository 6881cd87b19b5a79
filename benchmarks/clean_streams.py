"""Keeps what libraries and engines print out of a benchmark's result."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_LOG_SHOWN = 6000
"""Bytes of the engines' own messages that are shown when a run fails."""


@contextmanager
def streams_kept_clean() -> Iterator[tuple[TextIO, TextIO]]:
    """Standard output and error stream for the report and its progress alone.

    What libraries and engine processes print goes to a log, whose end is shown where the block fails.
    """
    with (
        os.fdopen(os.dup(1), "w") as out,
        os.fdopen(os.dup(2), "w") as err,
        tempfile.TemporaryFile() as log,
    ):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield out, err
        except BaseException:
            log.seek(max(log.seek(0, os.SEEK_END) - _LOG_SHOWN, 0))
            err.write(log.read().decode(errors="replace"))
            raise
        finally:
            for stream, descriptor in ((out, 1), (err, 2)):
                stream.flush()
                os.dup2(stream.fileno(), descriptor)
