"""Starting the service: what is checked before anything starts."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from zfleet.config.serve import ServeSpec
from zfleet.errors import RegistryUnreachable, ServeError
from zfleet_serve import run
from zfleet_serve.run import RunningService, check_port, run_serve


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_port_in_use_is_refused_by_number(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(ServeError, match=f"port {port}.*--set port="):
        run_serve(ServeSpec(port=port))


def test_an_interrupt_is_passed_on_after_everything_has_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command line makes its exit code and its message of it."""
    happened: list[str] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    with ExitStack() as ending:
        ending.callback(happened.append, "stopped")
        service = RunningService("http://here", "lab", ending.pop_all())
    monkeypatch.setattr(run, "_prepare", lambda spec: (spec, None))
    monkeypatch.setattr(run, "_deploy", lambda spec, bundle: service)
    monkeypatch.setattr(run, "cluster", lambda address: nullcontext())
    monkeypatch.setattr(run, "wait_for_interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_serve(ServeSpec(), "there:1")
    assert happened == ["stopped"]


def test_a_free_port_is_fine(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    taken.close()
    check_port("127.0.0.1", port)


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(ServeError, match=r"192\.0\.2\.1"):
        check_port("192.0.2.1", 8000)


def test_a_base_is_served_before_there_are_experts_but_no_registry_is_made_by_a_wrong_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "pack_base", lambda spec: SimpleNamespace(model=tmp_path))
    monkeypatch.setattr(run, "planned", lambda spec, folder: None)
    spec, _ = run._prepare(ServeSpec())
    assert spec.registry == f"sqlite:///{tmp_path}/runs/registry/mlflow.db"
    assert (tmp_path / "runs/registry/mlflow.db").exists()
    with pytest.raises(RegistryUnreachable, match="its file is missing"):
        run._prepare(ServeSpec(registry="sqlite:///runs/other.db"))
    assert not (tmp_path / "runs/other.db").exists()


def test_the_request_log_is_where_the_command_was_called_and_is_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "pack_base", lambda _: SimpleNamespace(model=None))
    monkeypatch.setattr(run, "planned", lambda *_: None)
    spec, _ = run._prepare(ServeSpec(request_log="requests.jsonl"))
    assert spec.request_log == str(tmp_path / "requests.jsonl")
    with pytest.raises(ServeError, match=r"request_log is 'none/requests\.jsonl'"):
        run._prepare(ServeSpec(request_log="none/requests.jsonl"))
