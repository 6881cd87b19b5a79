"""A Ray cluster that does not come up, or does not answer, is told in words."""

from __future__ import annotations

import socket

import pytest
import ray

from zfleet.errors import ClusterError
from zfleet_cluster import cluster


def test_where_nothing_listens_the_address_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: .*refused") as refused, cluster(address):
            pass
    assert "--address" in refused.value.remedy


@pytest.mark.parametrize("error", [Exception("The current node timed out during startup.\nMore."), ValueError()])
def test_a_start_that_fails_is_told_in_words(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ClusterError, match="Ray does not start on this machine: ") as refused, cluster(None):
        pass
    assert "\n" not in refused.value.message
    assert "memory" in refused.value.remedy
