"""Starting and stopping the service."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from ray import serve
from ray.exceptions import RayError

from zfleet.config.access import TlsSpec
from zfleet.config.public_keys import read_public_keys
from zfleet.config.serve import ServeSpec
from zfleet.engine.choose import resolve_engine
from zfleet.engine.open import check_engine
from zfleet.errors import ServeError
from zfleet.interrupts import signals_interrupt
from zfleet.memory.jobs import planned
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet_cluster import cluster, undisturbed
from zfleet_registry import ExpertRegistry
from zfleet_registry.address import SQLITE, kind_of, sqlite_file, sqlite_uri
from zfleet_serve.access.database import Database, database_uri
from zfleet_serve.app import build_app
from zfleet_serve.http.server import check_tls, listening_socket
from zfleet_serve.lifetime import (
    delete_application,
    serve_runs,
    shut_down_serve,
    wait_for_interrupt,
)
from zfleet_serve.telemetry import RequestLog

APPLICATION = "zfleet"
_REGISTRY_FILE = Path("runs/registry/mlflow.db")
_HEALTHY_SECONDS = 60


@dataclass(frozen=True)
class RunningService:
    """A service that runs.

    Attributes:
        url: Its URL; OpenAI clients use ``{url}/v1``.
        base: The name of its base.
    """

    url: str
    base: str
    _ending: ExitStack

    def stop(self) -> None:
        """End the application, and Serve if it was started for it.

        Raises:
            ServeError: The application does not end.
        """
        self._ending.close()


def run_serve(spec: ServeSpec, address: str | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then stop everything that was started and nothing else.

    Args:
        spec: The service.
        address: A running Ray cluster; None starts one on this machine.

    Raises:
        ClusterError: No cluster answers.
        ServeError: The port is in use, the cluster serves already, or the application does not start.
        KeysError: The keys cannot be used.
        ZfleetError: The base, the engine or the registry cannot be used.
        KeyboardInterrupt: When everything has stopped.
    """
    if address is None:
        check_port(spec.host, spec.port)
        check_engine(spec.engine)
    prepared = _prepare(resolve_engine(spec))
    # Twice, because connecting to Ray installs its own handlers.
    with signals_interrupt(), cluster(address), signals_interrupt():
        service = _deploy(*prepared)
        try:
            print(f"serving {service.base} at {service.url}/v1 (Ctrl-C stops)", flush=True)
            wait_for_interrupt()
        except KeyboardInterrupt:
            print("stopping", flush=True)
            raise
        finally:
            with undisturbed():
                service.stop()


def start_service(spec: ServeSpec) -> RunningService:
    """Serve on the cluster that this process is connected to, and return when the service answers.

    Raises:
        ServeError: The port is in use, the cluster serves already, or the application does not start.
        ZfleetError: The base or the registry cannot be used.
    """
    check_port(spec.host, spec.port)
    return _deploy(*_prepare(resolve_engine(spec)))


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        ServeError: Names the port and what to do.
    """
    listening_socket(host, port, shared=False).close()


def _prepare(spec: ServeSpec) -> tuple[ServeSpec, BaseBundle]:
    """Check the registry, the keys, the log and the memory and load the base, before anything is started."""
    uri = spec.registry
    if uri is None:
        uri = sqlite_uri(_REGISTRY_FILE)
    elif kind_of(uri) == SQLITE:
        # The path is relative to this folder; the gateway runs in another one.
        uri = sqlite_uri(sqlite_file(uri))
    # The default registry may be new and empty: a base is served before there are experts. A named one must exist.
    # Keys of signatures are read here: the gateway may run on another machine.
    trusted = read_public_keys(spec.require_signed_by)
    ExpertRegistry(uri, reading=spec.registry is not None, require_signed_by=trusted)
    found = {"registry": uri, "require_signed_by": trusted, "keys": spec.keys, "tls": spec.tls}
    if spec.keys is not None:
        found["keys"] = database_uri(spec.keys)
        Database(spec.keys).close()
    if spec.tls is not None:
        found["tls"] = TlsSpec(cert=str(Path(spec.tls.cert).absolute()), key=str(Path(spec.tls.key).absolute()))
        check_tls(spec.tls)
    if spec.request_log is not None:
        found["request_log"] = str(Path(spec.request_log).absolute())
        RequestLog(spec.request_log).close()
    bundle = pack_base(spec.base)
    planned(spec, bundle.model)
    return spec.model_copy(update=found), bundle


def _deploy(spec: ServeSpec, bundle: BaseBundle) -> RunningService:
    # Serve logs every step of a start; errors are raised as exceptions.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    url = f"{'http' if spec.tls is None else 'https'}://{_reachable(spec.host)}:{spec.port}"
    with ExitStack() as ending:
        if not serve_runs():
            ending.callback(shut_down_serve, besides=APPLICATION)
        elif APPLICATION in serve.status().applications:
            raise ServeError(
                f"this cluster already has an application {APPLICATION!r}",
                f"stop it where it was started; `ray.serve.delete({APPLICATION!r})` ends one whose process was killed",
            )
        try:
            # Gateways listen by themselves: a proxy of Serve would be one more process in between.
            serve.start(proxy_location="Disabled")
            ending.callback(delete_application, APPLICATION)
            serve.run(build_app(spec, bundle), name=APPLICATION, route_prefix=None)
            _wait_until_healthy(url)
        except (RuntimeError, RayError) as error:
            raise ServeError(
                f"the application does not start: {str(error).strip().splitlines()[-1]}",
                "the logs of Ray Serve say more (serve/ in Ray's session folder)",
            ) from error
        return RunningService(url, bundle.name, ending.pop_all())


def _wait_until_healthy(url: str) -> None:
    """Ask over HTTP, as clients will: only that shows that the service can be reached."""
    deadline = time.monotonic() + _HEALTHY_SECONDS
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            # The certificate is that of another name, and nothing is sent that anybody may not see.
            answer = httpx.get(f"{url}/healthz", timeout=10, trust_env=False, verify=False)
            if answer.status_code == 200:
                return
            reason = f"status {answer.status_code}"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        time.sleep(0.1)
    raise ServeError(
        f"{url} does not answer after {_HEALTHY_SECONDS} s: {reason}",
        "the logs of Ray Serve say more (serve/ in Ray's session folder); the head node must be reachable from here",
    )


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
