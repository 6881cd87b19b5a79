"""One process in a box: how it is started, and how it ends with nothing left over."""

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
"""All that a program sees of it, boxed or not."""


@dataclass(frozen=True)
class Box:
    """A program of ``inside`` that runs.

    Attributes:
        process: Bubblewrap, whose only child is the program; without a box, the program.
        info: Where bubblewrap writes its child's process id; None without a box.
    """

    process: subprocess.Popen[bytes]
    info: int | None

    @classmethod
    def start(cls, command: Sequence[str], isolated: bool, keep: Sequence[int] = (), **streams: Any) -> Box:
        """Start a program.

        Args:
            command: As ``bubblewrap.boxed`` or ``bubblewrap.bare`` gives it.
            isolated: Whether it is a command of ``boxed``.
            keep: Descriptors that the program inherits.
            streams: Of ``subprocess.Popen``.

        Raises:
            OSError: The system has no process, memory or file left.
        """
        if not isolated:
            return cls(subprocess.Popen(command, pass_fds=keep, env=_ENVIRONMENT, **streams), None)
        info, theirs = os.pipe()
        named = [command[0], "--info-fd", str(theirs), *command[1:]]
        try:
            return cls(subprocess.Popen(named, pass_fds=[*keep, theirs], env=_ENVIRONMENT, **streams), info)
        except OSError:
            os.close(info)
            raise
        finally:
            os.close(theirs)

    def kill(self) -> None:
        """Kill the program. Bubblewrap then takes its exit status and ends.

        Bubblewrap itself is not killed: its child would be left to the system's first process, which in many containers
        never takes an exit status, so that a dead process would stay for each box.
        """
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._program(), signal.SIGKILL)

    def wait(self) -> None:
        """Wait for the end after ``kill``, and forget the box."""
        self.process.wait()
        if self.info is not None:
            os.close(self.info)

    def _program(self) -> int:
        if self.info is not None:
            # Written as soon as the child is there; bubblewrap that ends before has none.
            with open(self.info, "rb", closefd=False) as file:
                if found := re.search(rb'"child-pid": (\d+)', file.read()):
                    return int(found[1])
        return self.process.pid
