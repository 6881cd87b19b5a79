"""The processes of a registry's server: started with a log each, watched, and ended in order."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zfleet.errors import RegistryError

LOGS = "logs"
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
"""An argument of ``prctl`` (linux/prctl.h)."""
_TAIL = 2000


@dataclass(frozen=True)
class Process:
    """A process, which has a group of its own: Ctrl-C in a terminal reaches zfleet alone, which ends them in order.

    Attributes:
        name: For messages.
        child: The process.
        log: The file of its output.
        stop_signal: Ends it cleanly.
    """

    name: str
    child: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals

    def check(self) -> None:
        """Check that it runs.

        Raises:
            RegistryError: It ended; quotes the end of its log.
        """
        if self.child.poll() is not None:
            lines = self.log.read_text(errors="replace")[-_TAIL:].splitlines()
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
            raise RegistryError(f"{self.name} ended with code {self.child.returncode}: {last}", f"see {self.log}")

    def wait_for(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until the process is ready.

        Raises:
            RegistryError: It ended, or is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise RegistryError(f"{self.name} is not ready after {seconds:.0f} s", f"see {self.log}")
            time.sleep(0.1)

    def stop(self, seconds: float) -> None:
        """End the process and whatever it started; kill what does not end in time."""
        if self.child.poll() is None:
            self.child.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


def start_process(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Process:
    """Start a process.

    Args:
        name: For messages and the name of its log.
        command: The program and its arguments, without secrets: other users see them.
        folder: The folder of the registry, which has the logs.
        environment: Variables besides those of this process.
        user: The system's user that it runs as; None: the present one.
        stop_signal: Ends it cleanly.
    """
    log = folder / LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | dict(environment or {}),
            cwd=folder,
            user=user,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _end_with_parent(stop_signal),
        )
    return Process(name, child, log, stop_signal)


def _end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends, even if it is killed."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    """Return whether something listens on a port."""
    with suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False
