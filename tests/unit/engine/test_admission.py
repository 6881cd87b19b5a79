"""The queue in front of an engine: order, rows, and tasks that are cancelled at the worst moment."""

from __future__ import annotations

import asyncio

import pytest
import torch

from zfleet.engine.admission import AwaitedAdmission
from zfleet.engine.z_table import ZEntry, ZTable
from zfleet.errors import EngineError, RequestAborted


class Queue:
    """An admission with three z, and tasks that wait in it."""

    def __init__(self, slots: int, rows: int = 4) -> None:
        self.table = ZTable(2, rows)
        for name in "abc":
            self.table.put(name, torch.ones(2))
        self.admission = AwaitedAdmission(self.table, slots)

    def entry(self, name: str) -> ZEntry:
        return self.table.use(name)

    async def waiting(self, entry: ZEntry, request: str = "r") -> asyncio.Task[int]:
        task = asyncio.create_task(self.admission.enter(entry, request))
        await asyncio.sleep(0)
        return task


async def test_slots_and_rows_are_given_first_come_first_served() -> None:
    queue = Queue(slots=2)
    a, b = queue.entry("a"), queue.entry("b")
    assert await queue.admission.enter(a, "1") != await queue.admission.enter(b, "2")
    third, fourth = await queue.waiting(a), await queue.waiting(b)
    queue.admission.leave(b)
    await asyncio.sleep(0)
    assert (third.done(), fourth.done()) == (True, False)
    queue.admission.leave(a)
    assert await fourth == b.row


async def test_behind_a_request_that_waits_for_a_row_only_base_requests_are_admitted() -> None:
    queue = Queue(slots=8, rows=2)
    a, b, base = queue.entry("a"), queue.entry("b"), queue.entry("base")
    await queue.admission.enter(a, "1")
    needs_row, same, plain = await queue.waiting(b), await queue.waiting(a), await queue.waiting(base)
    assert (needs_row.done(), same.done(), plain.done()) == (False, False, True)
    queue.admission.leave(a)
    assert await needs_row == b.row
    queue.admission.leave(b)
    assert await same == a.row


async def test_a_request_cancelled_in_the_iteration_that_frees_a_slot_keeps_none() -> None:
    queue = Queue(slots=1)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")
    cancelled, later = await queue.waiting(a), await queue.waiting(a)
    cancelled.cancel()
    queue.admission.leave(a)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await later == a.row
    assert queue.admission.running == 1


async def test_a_request_cancelled_after_its_admission_gives_its_slot_back() -> None:
    queue = Queue(slots=1)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")
    admitted, later = await queue.waiting(a), await queue.waiting(a)
    queue.admission.leave(a)
    admitted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitted
    assert await later == a.row
    assert (queue.admission.running, a.pins) == (1, 1)


@pytest.mark.parametrize("refused_first", [True, False])
async def test_refusing_and_cancelling_do_not_disturb_each_other(refused_first: bool) -> None:
    queue = Queue(slots=1)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")
    waiter = await queue.waiting(a, "gone")
    if not refused_first:
        waiter.cancel()
    queue.admission.refuse(RequestAborted("gone", ""), "gone")
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert queue.admission.waiting == 0


async def test_refusing_ends_one_request_or_all() -> None:
    queue = Queue(slots=1)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")
    refused, other = await queue.waiting(a, "refused"), await queue.waiting(a, "other")
    queue.admission.refuse(RequestAborted("refused", ""), "refused")
    with pytest.raises(RequestAborted):
        await refused
    assert not other.done()
    queue.admission.refuse(RequestAborted("all", ""))
    with pytest.raises(RequestAborted):
        await other


@pytest.mark.parametrize("call", ["pin", "fill"])
async def test_a_table_that_cannot_give_a_row_refuses_who_waits(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    queue = Queue(slots=1)
    a, b = queue.entry("a"), queue.entry("b")
    await queue.admission.enter(a, "1")
    waiting = await queue.waiting(b)
    with monkeypatch.context() as patch:
        patch.setattr(queue.table, call, _break)
        queue.admission.leave(a)
        with pytest.raises(EngineError, match="broke"):
            await waiting
    queue.admission.check()
    assert await asyncio.wait_for(queue.admission.enter(b, "2"), 10) == b.row


async def test_a_row_that_cannot_be_freed_refuses_who_waits_and_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(slots=1)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")
    waiting = await queue.waiting(a)
    with monkeypatch.context() as patch:
        patch.setattr(queue.table, "unpin", _break)
        queue.admission.leave(a)
    with pytest.raises(EngineError, match="broke"):
        await waiting
    with pytest.raises(EngineError, match="broke"):
        await queue.admission.enter(a, "2")
    with pytest.raises(EngineError, match="broke"):
        queue.admission.check()


def _break(*_: object) -> None:
    raise RuntimeError("the table broke")


async def test_work_on_an_empty_engine_waits_for_those_that_run_and_holds_back_the_others() -> None:
    queue = Queue(slots=8)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")
    events: list[str] = []

    async def change() -> None:
        async with queue.admission.empty():
            events.append(f"changed with {queue.admission.running} running")
            await asyncio.sleep(0)

    changing = asyncio.create_task(change())
    await asyncio.sleep(0)
    later = await queue.waiting(a)
    assert not later.done()
    assert events == []
    queue.admission.leave(a)
    await changing
    assert events == ["changed with 0 running"]
    assert await later == a.row
    assert queue.admission.running == 1


async def test_work_that_gives_up_waiting_for_an_empty_engine_lets_the_others_in() -> None:
    queue = Queue(slots=8)
    a = queue.entry("a")
    await queue.admission.enter(a, "1")

    async def change() -> None:
        async with queue.admission.empty():
            raise AssertionError("one still runs")

    changing = asyncio.create_task(change())
    await asyncio.sleep(0)
    later = await queue.waiting(a)
    changing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert await later == a.row
