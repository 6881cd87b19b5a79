"""A Ray cluster that does not come up, or does not answer, is told in words."""

from __future__ import annotations

import platform
import socket

import pytest
import ray
from ray._private.utils import check_version_info

from zfleet.errors import ClusterError
from zfleet_cluster import cluster


def test_where_nothing_listens_the_address_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: .*refused") as refused, cluster(address):
            pass
    assert "--address" in refused.value.remedy


def test_another_version_on_the_cluster_is_told_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        there = {"ray_version": "2.9.0", "python_version": "3.10.1"}
        check_version_info(there, "10.0.0.2", python_version_match_level="minor")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError) as refused, cluster("auto"):
        pass
    here = f"Ray: {ray.__version__}; Python: {platform.python_version()}"
    assert refused.value.message == (
        "the Ray cluster at auto cannot be used from here: Version mismatch: The cluster was started with: "
        f"Ray: 2.9.0; Python: 3.10.1; This process on 10.0.0.2 was started with: {here}"
    )
    assert "same versions of Ray and of Python" in refused.value.remedy


@pytest.mark.parametrize("error", [Exception("The current node timed out during startup.\nMore."), ValueError()])
def test_a_start_that_fails_is_told_in_words(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ClusterError, match=r"not start on this machine: (.*More|ValueError)") as refused, cluster(None):
        pass
    assert "\n" not in refused.value.message
    assert "memory" in refused.value.remedy
