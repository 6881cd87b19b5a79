"""Starting the service: what is checked before anything starts."""

import socket
from collections.abc import Iterator

import pytest

from zfleet.config.specs import ServeSpec
from zfleet.errors import ServeError
from zfleet_serve.run import check_port, run_serve


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


def test_a_free_port_is_fine(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    taken.close()
    check_port("127.0.0.1", port)


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(ServeError, match=r"192\.0\.2\.1"):
        check_port("192.0.2.1", 8000)
