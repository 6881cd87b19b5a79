"""MLflow's server with users and permissions. It passes artifacts on, so that clients need no keys of an S3."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from zfleet.errors import RegistryError
from zfleet_registry.server.processes import Process, answers, start_process
from zfleet_registry.server.secrets import FOLDER, secret, write_private

ADMIN = "admin"
"""The name of the first administrator."""
ADMIN_PASSWORD = "admin-password"
"""The file of the first administrator's password, in the folder of secrets."""
_START_SECONDS, _STOP_SECONDS = 180, 30
_AUTHENTICATED_SECONDS = 60
"""How long a worker remembers that a password was right. To compute it takes longer than all the rest of a request."""


@contextmanager
def tracking_server(
    folder: Path, database: str, artifacts: str, host: str, port: int, workers: int, environment: Mapping[str, str]
) -> Iterator[Process]:
    """Run MLflow's server inside the block; it answers when the block begins.

    Args:
        folder: The absolute path of the registry's folder.
        database: The URI of the database, without a password (``PGPASSFILE`` has it) or in the environment alone.
        artifacts: A folder or an ``s3://`` URI, in which the server keeps artifacts.
        host: The address to listen on.
        port: The port.
        workers: The number of its processes.
        environment: Variables besides those of this process: an S3's address and keys.

    Raises:
        RegistryError: The port is taken, a package is missing, or the server does not start; quotes its log.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise RegistryError("Flask-WTF is not installed: MLflow's users need it", "pip install 'zfleet[server]'")
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    if answers(reached, port):
        raise RegistryError(f"port {port} of {host} is taken", "end what listens there, or give --port")
    variables = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_AUTH_CONFIG_PATH": str(_configuration(folder, database)),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(folder, "cookies"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its jobs and agents have processes of their own, and nothing here uses them.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", host, "--port", str(port), "--workers", str(workers)]
    process = start_process("mlflow", command, folder, environment={**variables, **environment})
    try:
        process.wait_for(lambda: is_healthy(f"http://{reached}:{port}"), _START_SECONDS)
        yield process
    finally:
        process.stop(_STOP_SECONDS)


def is_healthy(url: str) -> bool:
    """Return whether MLflow's server answers."""
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).text == "OK"
    except httpx.HTTPError:
        return False


def _configuration(folder: Path, database: str) -> Path:
    """Write MLflow's settings of users, in which every user may read and an administrator grants the rest."""
    text = f"""[mlflow]
default_permission = READ
database_uri = {database.replace("%", "%%")}
admin_username = {ADMIN}
admin_password = {secret(folder, ADMIN_PASSWORD)}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {_AUTHENTICATED_SECONDS}
"""
    return write_private(folder / FOLDER / "users.ini", text)
