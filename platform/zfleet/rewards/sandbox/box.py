"""Start one process in a box, and end it without leaving a process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""The whole environment of a program, boxed or not."""


@dataclass(frozen=True)
class Box:
    """A running program of ``inside``.

    Attributes:
        process: Bubblewrap, whose only child is the program; the program itself if there is no box.
        info: The descriptor to which bubblewrap writes its child's process id; None if there is no box.
    """

    process: subprocess.Popen[bytes]
    info: int | None

    @classmethod
    def start(cls, command: Sequence[str], isolated: bool, keep: Sequence[int] = (), **streams: Any) -> Box:
        """Start a program.

        Args:
            command: The result of ``bubblewrap.boxed`` or ``bubblewrap.bare``.
            isolated: Whether the command came from ``boxed``.
            keep: Descriptors that the program inherits.
            streams: Passed to ``subprocess.Popen``.

        Raises:
            OSError: The system is out of processes, memory or files.
        """
        if not isolated:
            return cls(subprocess.Popen(command, pass_fds=keep, env=_ENVIRONMENT, **streams), None)
        info, child_end = os.pipe()
        reporting = [command[0], "--info-fd", str(child_end), *command[1:]]
        try:
            return cls(subprocess.Popen(reporting, pass_fds=[*keep, child_end], env=_ENVIRONMENT, **streams), info)
        except OSError:
            os.close(info)
            raise
        finally:
            os.close(child_end)

    def kill(self) -> None:
        """Kill the program. Bubblewrap then reaps it and ends.

        Bubblewrap itself is not killed: the program would pass to the system's init process, which in many containers
        reaps nothing, so that each box would leave a zombie.
        """
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._program(), signal.SIGKILL)

    def wait(self) -> None:
        """Wait for the process to end after ``kill``, and release the descriptor."""
        self.process.wait()
        if self.info is not None:
            os.close(self.info)

    def _program(self) -> int:
        if self.info is not None:
            # Bubblewrap writes this when it has started the child. If it ended before, there is no child.
            with open(self.info, "rb", closefd=False) as file:
                if match := re.search(rb'"child-pid": (\d+)', file.read()):
                    return int(match[1])
        return self.process.pid
