"""Start a registry for a team: its database, its artifact store and MLflow's server; end them in turn."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from zfleet.errors import RegistryError
from zfleet_registry import schema
from zfleet_registry.address import address_of, kind_of
from zfleet_registry.probe import probe
from zfleet_registry.server.postgres import postgres
from zfleet_registry.server.processes import Process
from zfleet_registry.server.secrets import FOLDER
from zfleet_registry.server.stand_in import stand_in_s3
from zfleet_registry.server.tracking import ADMIN_PASSWORD, tracking_server

_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class ServerOptions:
    """What a registry's server is started with.

    Attributes:
        host: The address that MLflow's server listens on.
        port: Its port.
        workers: The number of its processes.
        database: The URI of a PostgreSQL database that exists; None starts one in the registry's folder.
        artifacts: A folder or an ``s3://`` URI; None is a folder in the registry's.
        stand_in_s3: Start moto's server for the artifacts, which forgets them at its end.
        upgrade: Bring the tables of an older MLflow to the version of this one.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 2
    database: str | None = None
    artifacts: str | None = None
    stand_in_s3: bool = False
    upgrade: bool = False


@dataclass(frozen=True)
class RunningRegistry:
    """A registry's server that runs.

    Attributes:
        url: Its URL, which is the registry's URI.
        artifacts: Where it keeps artifacts.
        admin_password: The file with the first administrator's password.
    """

    url: str
    artifacts: str
    admin_password: Path
    _processes: tuple[Process, ...]
    _ending: ExitStack

    def watch(self) -> None:
        """Wait until one of its processes ends.

        Raises:
            RegistryError: One ended; quotes its log.
        """
        while True:
            for process in self._processes:
                process.check()
            time.sleep(_CHECK_SECONDS)

    def stop(self) -> None:
        """End its processes: MLflow's server first, the database last."""
        self._ending.close()


def start(folder: Path, options: ServerOptions) -> RunningRegistry:
    """Start a registry's server; it answers when this returns.

    Several machines may start one on the same database, also the very first time: who makes or changes tables holds
    the database's lock.

    Args:
        folder: The folder of its data, passwords and logs; made if needed.
        options: What to start.

    Raises:
        RegistryError: Another process runs this folder, a part does not start, or the tables are of another MLflow.
        RegistryUnreachable: The given database does not answer.
    """
    folder = folder.expanduser().absolute()
    with ExitStack() as parts:
        _hold(folder, parts)
        processes: list[Process] = []
        database = options.database
        if database is None:
            database, process = parts.enter_context(postgres(folder))
            processes.append(process)
        elif kind_of(database) != "postgresql":
            raise RegistryError(f"database {address_of(database)} is not PostgreSQL", "give postgresql://...")
        else:
            probe(database, reading=False)
        artifacts, environment = _place(folder, options.artifacts), dict[str, str]()
        if options.stand_in_s3:
            artifacts, environment, process = parts.enter_context(stand_in_s3(folder))
            processes.append(process)
        with schema.alone(database) as engine:
            schema.prepare(engine, database, options.upgrade)
            server = tracking_server(
                folder, database, artifacts, options.host, options.port, options.workers, environment
            )
            processes.append(parts.enter_context(server))
        url = f"http://{options.host}:{options.port}"
        return RunningRegistry(url, artifacts, folder / FOLDER / ADMIN_PASSWORD, tuple(processes), parts.pop_all())


def _place(folder: Path, artifacts: str | None) -> str:
    """Return where artifacts are kept; a folder as an absolute path, because the server runs in another one."""
    if artifacts is None:
        return str(folder / "artifacts")
    return artifacts if "://" in artifacts else str(Path(artifacts).expanduser().absolute())


def _hold(folder: Path, parts: ExitStack) -> None:
    """Hold the folder's lock until the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder / ".lock"), timeout=0)
        lock.acquire()
    except Timeout:
        raise RegistryError(
            f"another process runs the registry in {folder}", "end it, or give another folder"
        ) from None
    except OSError as error:
        raise RegistryError(
            f"{folder} cannot be used: {error.strerror or error}", "give a folder in which you may write"
        ) from error
    parts.callback(lock.release)
