"""`zfleet serve` as a process of its own, for as long as a benchmark asks it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from zfleet.errors import ServeError


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[tuple[str, psutil.Process]]:
    """The URL of a service and its process; it ends with the block.

    Args:
        folder: Where it is started: its registry lies in there.
        settings: Keys of a serve spec, with ``__`` for each dot.

    Raises:
        ServeError: It does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("zfleet")), "serve", "--set", f"port={port}"]
    for key, value in settings.items():
        command += ["--set", f"{key.replace('__', '.')}={value}"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if "serving" not in process.stdout.readline():
                raise ServeError("zfleet serve did not start", "its error stream says why")
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
