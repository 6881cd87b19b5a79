"""MLflow's tracking server, in processes that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from zfleet_registry.server.processes import free_port

_START_SECONDS = 600


class TrackingServer:
    """A server over a sqlite file, always at the same port.

    Args:
        folder: Where its database and artifacts are.
        environment: Variables for it, besides this process's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def group(self) -> int:
        """The number of its group of processes."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    def start(self) -> None:
        """Start it, again if it runs, and wait until it listens."""
        self.kill()
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/served.db"]
        store += ["--artifacts-destination", str(self._folder / "served")]
        command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(self._port), "--workers", "1"]
        self._process = subprocess.Popen(
            command,
            env=os.environ | self._environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process.poll() is None, "the server ended by itself"
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with all its processes, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
