"""Background work that raises ends what it served, and its loop goes on or shows that it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from zfleet import supervise
from zfleet.errors import EngineError, InvalidRequest, ZfleetError
from zfleet.supervise import WorkLoop, guarded


class Worker:
    """A loop that works through a list of functions, and notes what it failed."""

    def __init__(self, fail: Callable[[ZfleetError], None] | None = None) -> None:
        self.work: list[Callable[[], None]] = []
        self.failed: list[ZfleetError] = []
        self.loop = WorkLoop("the loop of a test", self._turn, fail or self.failed.append)

    async def _turn(self) -> bool:
        if not self.work:
            return False
        self.work.pop(0)()
        self.loop.count_success()
        return True

    async def do(self, *work: Callable[[], None]) -> None:
        self.work.extend(work)
        self.loop.wake()
        while self.work:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def _break() -> None:
    raise KeyError("broke")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_FIRST_PAUSE", 0.0)


async def test_a_turn_that_raises_fails_what_it_served_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    worker, done = Worker(), list[int]()
    await worker.do(_break, lambda: done.append(1))
    assert done == [1]
    (error,) = worker.failed
    assert isinstance(error, EngineError)
    assert error.message == "the loop of a test failed: KeyError: 'broke'"
    assert "broke" in caplog.text
    worker.loop.check()
    await worker.loop.stop()


async def test_an_error_of_ours_is_passed_on_as_it_is() -> None:
    worker, refusal = Worker(), InvalidRequest("no", "yes")

    def refuse() -> None:
        raise refusal

    await worker.do(refuse)
    assert worker.failed == [refusal]
    await worker.loop.stop()


async def test_failures_in_a_row_show_until_something_succeeds() -> None:
    worker = Worker()
    await worker.do(*[_break] * 4)
    worker.loop.check()
    await worker.do(_break)
    with pytest.raises(EngineError, match=r"failed 5 times in a row, last with KeyError: 'broke'"):
        worker.loop.check()
    await worker.do(lambda: None)
    worker.loop.check()
    await worker.loop.stop()


async def test_pauses_stay_bounded_however_often_a_loop_fails() -> None:
    worker = Worker()
    worker.loop._failures = 5000
    await worker.do(_break, lambda: None)
    worker.loop.check()
    await worker.loop.stop()


async def test_a_loop_that_cannot_fail_what_it_served_is_dead() -> None:
    calls = list[ZfleetError]()

    def fail(error: ZfleetError) -> None:
        calls.append(error)
        if len(calls) == 1:
            raise OSError("no way")

    worker = Worker(fail)
    await worker.do(_break)
    assert len(calls) == 2, "it is asked again, for what the first call left"
    for ask in (worker.loop.check, worker.loop.wake):
        with pytest.raises(EngineError, match=r"died: OSError: no way, after this: .*broke"):
            ask()
    await worker.loop.stop()


async def test_a_stopped_loop_says_so_and_fails_nothing() -> None:
    worker = Worker()
    await worker.do(lambda: None)
    await worker.loop.stop()
    await worker.loop.stop()
    assert not worker.failed
    with pytest.raises(EngineError, match="was stopped"):
        worker.loop.wake()


def test_a_loop_starts_again_in_another_event_loop() -> None:
    worker, done = Worker(), list[int]()
    for number in range(2):
        asyncio.run(worker.do(lambda: done.append(number)))  # noqa: B023  (run at once)
    assert done == [0, 1]
    assert all("cancelled" in error.message for error in worker.failed)


@pytest.mark.parametrize("error", [KeyError("broke"), InvalidRequest("broke", "mend it")])
def test_guarded_work_keeps_its_error_inside(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    failed = list[ZfleetError]()
    for fail in (failed.append, None):
        with guarded("a test", fail):
            raise error
    assert "broke" in failed[0].message
    assert caplog.text.count("a test failed") == 2


def test_guarded_work_that_is_cancelled_fails_and_stays_cancelled() -> None:
    failed = list[ZfleetError]()
    with pytest.raises(asyncio.CancelledError), guarded("a test", failed.append):
        raise asyncio.CancelledError
    assert failed[0].message == "a test was cancelled"
