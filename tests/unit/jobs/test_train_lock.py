"""A command whose workers outlive it, and the next one on the same run: never do both write."""

from __future__ import annotations

import json
import pickle
from contextlib import ExitStack
from pathlib import Path

import pytest

from zfleet.errors import JobError
from zfleet_jobs.run_folder.lock import WriteLease, only_writer
from zfleet_jobs.run_folder.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path), "mine")


def killed(storage: Storage) -> WriteLease:
    """What workers were given by a command that was killed: the system released its lock."""
    with only_writer(storage, "mine") as lease:
        return pickle.loads(pickle.dumps(lease))  # type: ignore[no-any-return]  # noqa: S301


def test_the_next_command_begins_when_the_workers_of_a_killed_one_have_ended(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as workers:
        lease = killed(storage)
        for _ in range(2):
            workers.enter_context(lease.working())
        polls: list[float] = []

        def sleep(seconds: float) -> None:
            polls.append(seconds)
            if len(polls) == 3:
                workers.close()

        monkeypatch.setattr("zfleet_jobs.run_folder.lock.time.sleep", sleep)
        with only_writer(storage, "mine") as next_lease, next_lease.working():
            assert len(polls) == 3, "it began while workers of the other one were there"
    assert [record.message for record in caplog.records] == [
        "run mine: workers of a command that was killed still write to it; waiting for them"
    ]


def test_workers_that_do_not_end_are_named_and_nothing_begins(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zfleet_jobs.run_folder.lock.time.sleep", lambda seconds: None)
    monkeypatch.setattr("zfleet_jobs.run_folder.lock.os.getpid", lambda: 4711)
    monkeypatch.setattr("zfleet_jobs.run_folder.lock.socket.gethostname", lambda: "node-3")
    with killed(storage).working():
        with pytest.raises(
            JobError, match=r"'mine' .* is being written by workers of a command that was killed"
        ) as error:
            only_writer(storage, "mine").__enter__()
        assert error.value.message.endswith("after this one began: pid 4711 on node-3")
        assert "stop those processes" in error.value.remedy
    with only_writer(storage, "mine"):
        assert (tmp_path / "mine" / "workers").read_text() == ""


def test_a_worker_that_begins_when_another_command_has_the_run_writes_nothing(storage: Storage) -> None:
    lease = killed(storage)
    with only_writer(storage, "mine") as next_lease:
        with pytest.raises(JobError, match="belongs to another command by now"):
            lease.working().__enter__()
        with next_lease.working(), next_lease.working():
            pass
    with pytest.raises(JobError, match="belongs to another command by now"):
        lease.working().__enter__()


def test_a_worker_that_begins_while_the_next_command_writes_its_name_writes_nothing(
    storage: Storage, tmp_path: Path
) -> None:
    lease = killed(storage)
    for half in ("", '{"pid": 7'):
        (tmp_path / "mine" / "lock").write_text(half)
        with pytest.raises(JobError, match="belongs to another command"):
            lease.working().__enter__()


def test_workers_of_a_living_command_do_not_wait_for_each_other_or_leave_anything(
    storage: Storage, tmp_path: Path
) -> None:
    with only_writer(storage, "mine") as lease:
        for _ in range(2):
            with lease.working(), lease.working():
                pass
        assert json.loads((tmp_path / "mine" / "lock").read_text())["id"] == lease.id
    with only_writer(storage, "mine") as again:
        assert again.id != lease.id


def test_under_a_uri_nothing_is_locked(tmp_path: Path) -> None:
    there = Storage.at(f"file://{tmp_path}", "mine")
    with only_writer(there, "mine") as lease, lease.working(), only_writer(there, "mine") as other, other.working():
        assert list(tmp_path.iterdir()) == []
