"""Starting Ray on this machine: what is said of the folder for temporary files, and what is not said at all."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
import ray
from ray._private.authentication import authentication_token_setup
from ray._private.utils import validate_socket_filepath

from zfleet.errors import ClusterError
from zfleet_cluster import cluster

SESSION = "ray/session_2026-11-30_06-22-43_123456_123456/sockets/plasma_store"


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Ray as far as its sockets: in the folder that it goes by, and with its own check."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folders: list[Path] = []

    def init(**_: object) -> None:
        folder = Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp")))
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        validate_socket_filepath(str(folder / SESSION))
        folders.append(folder)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return folders


def refusal() -> ClusterError:
    with pytest.raises(ClusterError) as refused, cluster(None):
        pass
    return refused.value


@pytest.mark.skipif(sys.platform != "linux", reason="Ray goes by TMPDIR on Linux alone")
@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_whose_sockets_have_too_long_paths_is_named_with_a_shorter_one(
    name: str, starts: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = str(tmp_path / ("x" * 70))
    monkeypatch.setenv(name, folder)
    length = len(f"{folder}/{SESSION}")
    refused = refusal()
    assert refused.message == (
        f"Ray does not start on this machine: {name} is {folder!r}, and the path of Ray's socket below it would have "
        f"{length} bytes, where the system takes 107"
    )
    assert f"set a {name} that is shorter by {length - 107} bytes or more" in refused.remedy
    assert f"{name}=/tmp" in refused.remedy


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_what_the_remedy_says_is_enough(
    over: int, starts: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = 107 - len(f"/{SESSION}") + over
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setenv("TMPDIR", "/" + "ü" * ((room - 1) // 2) + "x" * ((room - 1) % 2))
    if over > 0:
        assert "shorter by 1 bytes" in refusal().remedy
    else:
        with cluster(None):
            assert starts


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("folder", ["", "tmp", "./tmp"])
def test_a_relative_folder_is_refused_before_ray_waits_for_itself(
    name: str, folder: str, starts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, folder)
    refused = refusal()
    assert refused.message == f"{name} is {folder!r}, which is no absolute path"
    assert f"{name}=/tmp" in refused.remedy
    assert not starts


def test_a_folder_that_cannot_be_made_is_named(
    starts: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TMPDIR", str(file))
    refused = refusal()
    assert f"TMPDIR is {str(file)!r}, and {file}/ray cannot be made: Not a directory" in refused.message
    assert "set TMPDIR to a folder that can be written" in refused.remedy


def test_an_error_about_another_file_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(**_: object) -> None:
        raise FileNotFoundError(2, "No such file", "/usr/lib/raylet")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray, "init", fail)
    refused = refusal()
    assert "/usr/lib/raylet" in refused.message
    assert "TMPDIR" not in refused.message + refused.remedy


@pytest.mark.parametrize("mode", [None, "disabled", "token"])
def test_ray_asks_for_tokens_as_it_was_going_to_and_does_not_say_so(
    mode: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    modes: list[str | None] = []

    def init(**_: object) -> None:
        modes.append(os.environ.get("RAY_AUTH_MODE"))
        authentication_token_setup._warn_token_auth_enabled()
        logging.getLogger("ray").warning("of another kind")

    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with cluster(None):
        assert modes == [mode], "what the user set, and Ray's own default otherwise"
        assert [record.message for record in caplog.records] == ["of another kind"]
    authentication_token_setup._warn_token_auth_enabled()
    assert "Token authentication is enabled" in caplog.text, "it is quiet while we connect only"
