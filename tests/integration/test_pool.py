"""The engine pool on real Ray actors: the engine contract, members that die, and clients that share it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Chunk, Completion, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import BaseModelError, EngineError, JobError, RequestAborted, UnknownZ
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import greedy, run, run_all, sampled
from zfleet_cluster.fleet.actors import Fleet, actor_fleet
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.replica import Member

TEXTS = ("flip bca", "reverse hello", "sort ab", "add 3 4", "kind? turn xyz", "order qwe")
Make = Callable[[int], ZVector]


@pytest.fixture(scope="module")
def bundle(ray_cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseBundle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield pack_base(BaseSpec(model=str(tiny_folder)))


@pytest.fixture(scope="module")
def shipped(bundle: BaseBundle) -> ShippedBase:
    return ship(bundle)


@pytest.fixture(scope="module")
def prompts(bundle: BaseBundle) -> tuple[tuple[int, ...], ...]:
    tokenizer = bundle.tokenizer()
    return tuple(tuple(tokenizer(text)["input_ids"]) for text in TEXTS)


@pytest.fixture(scope="module")
def pool(shipped: ShippedBase) -> Iterator[Fleet]:
    """Two members; tests leave nothing in them."""
    with actor_fleet(shipped, EngineSpec(slots=16), ResourceSpec(), members=2) as pool:
        yield pool


def _reopening(shipped: ShippedBase) -> Any:
    """A member whose engine can be another for every test: opening a process takes seconds."""

    class Reopening(Member):
        model: SvfModel

        async def reopen(self, shipped: ShippedBase, spec: EngineSpec) -> int:
            if self.opened is None:
                self.model = (await shipped.bundle).open()
            else:
                await self.opened.close()
            self.opened = TorchEngine(self.model, spec)
            return self.opened.max_length

    return ray.remote(Reopening).options(num_cpus=0, max_concurrency=1000).remote(EngineSpec(), 1)


@pytest.fixture(scope="module")
def member(shipped: ShippedBase) -> Iterator[Any]:
    actor = _reopening(shipped)
    yield actor
    ray.kill(actor)


class TestPoolEngine(EngineConformance):
    """One member: more would each count the z that they hold."""

    @pytest.fixture(autouse=True)
    def _pool(self, member: Any, shipped: ShippedBase, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make) -> None:
        self._member, self._shipped, self._make_z = member, shipped, make_pool_z
        self.prompts = prompts

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        length = await self._member.reopen.remote(self._shipped, EngineSpec(slots=slots, z_rows=z_rows))
        return FleetEngine([self._member], self._shipped, length)

    def make_z(self, seed: int) -> ZVector:
        return self._make_z(seed)


@pytest.fixture(scope="module")
def make_pool_z(bundle: BaseBundle) -> Make:
    """``make_z`` on the factors that were shipped."""
    model = bundle.open()

    def make(seed: int) -> ZVector:
        generator = torch.Generator().manual_seed(seed)
        return model.z_from_flat(1 + 0.3 * torch.randn(model.layout.size, generator=generator))

    return make


@pytest.fixture(scope="module")
def expected(
    bundle: BaseBundle, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make
) -> Callable[[list[GenerationRequest]], list[Completion]]:
    """Answers of an engine in this process that knows z 1 and 2."""

    def answers(requests: list[GenerationRequest]) -> list[Completion]:
        with SyncEngine(TorchEngine(bundle.open(), EngineSpec(slots=16))) as engine:
            for seed in (1, 2):
                engine.put_z(make_pool_z(seed))
            return [one for (one,) in engine.generate(requests)]

    return answers


async def test_members_share_the_work_of_a_batch(
    pool: Fleet, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make, expected: Any
) -> None:
    before = [one.generated_tokens for one in await _stats(pool)]
    async with _client(pool) as engine:
        digests = [await engine.put_z(make_pool_z(seed)) for seed in (1, 2)]
        requests = [sampled(prompt, 5, z) for prompt in prompts for z in (BASE_Z, *digests)]
        answers = await run_all(engine, requests)
    assert answers == await asyncio.to_thread(expected, requests)
    after = [one.generated_tokens for one in await _stats(pool)]
    each = [last - first for last, first in zip(after, before, strict=True)]
    assert each == [sum(len(answer.token_ids) for answer in answers) // 2] * 2


async def test_a_z_that_is_put_and_dropped_every_step_leaves_nothing(
    pool: Fleet, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make
) -> None:
    async with _client(pool) as engine:
        for seed in range(4):
            z = await engine.put_z(make_pool_z(seed))
            await run_all(engine, [sampled(prompt, 1, z) for prompt in prompts])
            await engine.drop_z(z)
        assert [one.known_z for one in await _stats(pool)] == [0, 0]
        await engine.put_z(make_pool_z(1))
    assert [one.known_z for one in await _stats(pool)] == [0, 0], "a client that was closed left its z"


async def test_clients_that_share_a_z_do_not_take_it_from_each_other(
    pool: Fleet, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make
) -> None:
    z = make_pool_z(1)
    async with _client(pool) as one, _client(pool) as other:
        for client in (one, other):
            await client.put_z(z)
        requests = [replace(sampled(prompt, 3, z.digest), request_id="same") for prompt in prompts]
        before = await run_all(one, requests)
        # Both use one request's name; the other client ends its own only.
        answers = asyncio.create_task(_all(one, [replace(r, request_id=f"{i}") for i, r in enumerate(requests)]))
        waiting = asyncio.create_task(run(other, replace(sampled(prompts[0], 1, max_tokens=200), request_id="0")))
        await asyncio.sleep(0)
        await other.abort("0")
        with pytest.raises(RequestAborted):
            await waiting
        assert await answers == before
        await one.drop_z(z.digest)
        assert [stats.known_z for stats in await _stats(pool)] == [1, 1]
        assert await run_all(other, requests) == before
        scores = await other.score(ScoreRequest(prompts[0], prompts[1], z.digest))
        assert scores != await other.score(ScoreRequest(prompts[0], prompts[1]))
        with pytest.raises(UnknownZ):
            await run(await _put_and_dropped(pool, make_pool_z(2)), greedy(prompts[0], make_pool_z(2).digest))


async def test_a_request_that_is_aborted_at_once_runs_nowhere(
    pool: Fleet, prompts: tuple[tuple[int, ...], ...]
) -> None:
    async with _client(pool) as engine:
        for turns in range(5):
            long = asyncio.create_task(run(engine, replace(sampled(prompts[0], 1, max_tokens=200), request_id="long")))
            score = asyncio.create_task(engine.score(ScoreRequest(prompts[0], prompts[1])))
            for _ in range(turns):
                await asyncio.sleep(0)
            await engine.abort("long")
            score.cancel()
            # Not submitted yet where there was no turn: then there is nothing to abort.
            ended = await asyncio.gather(long, score, return_exceptions=True)
            assert turns == 0 or isinstance(ended[0], RequestAborted)
            assert isinstance(ended[1], asyncio.CancelledError)
            await run_all(engine, [sampled(prompt, 1, max_tokens=2) for prompt in prompts])
            assert (await engine.stats()).running == 0


async def test_a_z_dropped_while_it_is_put_again_is_gone(
    pool: Fleet, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make
) -> None:
    z = make_pool_z(1)
    async with _client(pool) as engine:
        for round_ in range(8):
            await engine.put_z(z)
            for member in pool.members:
                await member.drop_z.remote(z.digest)
            asked = [asyncio.create_task(run(engine, sampled(prompt, 1, z.digest))) for prompt in prompts]
            await asyncio.sleep(0.002 * round_)
            await engine.drop_z(z.digest)
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(outcome, Completion | UnknownZ), outcome
            assert [stats.known_z for stats in await _stats(pool)] == [0, 0]


async def test_a_member_killed_under_load_is_replaced(
    pool: Fleet, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make, expected: Any
) -> None:
    z = make_pool_z(1)
    async with _client(pool) as engine:
        await engine.put_z(z)
        pid = await _pid(pool.members[0])
        long = [replace(sampled(prompt, 7, z.digest, max_tokens=200), stream=True) for prompt in prompts]
        streams = [engine.generate(request) for request in long]
        begun = [list((await anext(stream)).token_ids) for stream in streams]
        unsent = [sampled(prompt, 9, z.digest, max_tokens=100) for prompt in prompts]
        waiting = asyncio.create_task(_all(engine, unsent))
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        outcomes = await asyncio.gather(
            *(_rest(stream, start) for stream, start in zip(streams, begun, strict=True)), return_exceptions=True
        )
        whole, answers = [await asyncio.to_thread(expected, requests) for requests in (long, unsent)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert 1 <= len(lost) <= 3, "three of six streams were the dead member's, unless one had ended"
        assert all(isinstance(error, EngineError) for error in lost)
        assert "died with the request" in str(lost[0])
        for outcome, answer in zip(outcomes, whole, strict=True):
            assert isinstance(outcome, EngineError) or outcome == answer.token_ids
        assert await waiting == answers

        assert await pool.members[0].open.options(max_task_retries=-1).remote(pool.shipped) == pool.max_length
        assert await _pid(pool.members[0]) != pid
        assert [one.known_z for one in await _stats(pool)] == [0, 1]
        async with asyncio.timeout(300):  # until the client has heard that the member is back
            while [one.known_z for one in await _stats(pool)] != [1, 1]:
                assert await run_all(engine, unsent * 2) == answers * 2
        assert all(one.generated_tokens for one in await _stats(pool))


async def test_a_pool_of_one_answers_when_its_member_is_back(
    shipped: ShippedBase, prompts: tuple[tuple[int, ...], ...], make_pool_z: Make, expected: Any
) -> None:
    z = make_pool_z(2)
    with _quick_pool(shipped) as pool:
        leaving = pool.engine()
        async with _client(pool) as engine, _client(pool) as unaware:
            for client in (engine, unaware):
                await client.put_z(z)
            requests = [sampled(prompt, 2, z.digest, max_tokens=100) for prompt in prompts]
            waiting = asyncio.create_task(_all(engine, requests))
            await asyncio.sleep(0.05)
            pid = await _pid(pool.members[0])
            os.kill(pid, signal.SIGKILL)
            putting = asyncio.create_task(leaving.put_z(z))
            while leaving._lines[0].up:
                await asyncio.sleep(0.01)
            await leaving.close()
            with pytest.raises(EngineError, match="closed"):
                await putting
            assert await waiting == await asyncio.to_thread(expected, requests)
            # This one did not see the member die, which lost the z and the engine.
            assert await run_all(unaware, requests) == await waiting
            assert (await engine.stats()).known_z == 1
        pid = await _pid(pool.members[0])
    _, alive = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=120)
    assert not alive, "the member outlived its pool"


def test_what_keeps_a_member_from_starting_arrives_as_it_was_raised(bundle: BaseBundle) -> None:
    other = ship(replace(bundle, fingerprint="f" * 64))
    with pytest.raises(BaseModelError, match="arrived as"), _quick_pool(other):
        pass


def test_a_pool_that_leaves_no_room_for_a_worker_is_refused(shipped: ShippedBase) -> None:
    too_large = actor_fleet(shipped, EngineSpec(), ResourceSpec(cpus=3), members=2)
    with pytest.raises(JobError, match="2 engines need 3 CPU each") as refused, too_large:
        pass
    assert "the cluster has 8 CPU" in str(refused.value)


@contextmanager
def _quick_pool(shipped: ShippedBase) -> Iterator[Fleet]:
    with actor_fleet(shipped, EngineSpec(slots=16), ResourceSpec(), members=1) as pool:
        yield pool


@asynccontextmanager
async def _client(pool: Fleet) -> AsyncIterator[FleetEngine]:
    engine = pool.engine()
    try:
        yield engine
    finally:
        await engine.close()


async def _put_and_dropped(pool: Fleet, z: ZVector) -> FleetEngine:
    engine = pool.engine()
    await engine.drop_z(await engine.put_z(z))
    return engine


async def _all(engine: Engine, requests: list[GenerationRequest]) -> list[Completion]:
    return await run_all(engine, requests)


async def _rest(stream: AsyncIterator[Chunk], tokens: list[int]) -> tuple[int, ...]:
    async for chunk in stream:
        tokens.extend(chunk.token_ids)
    return tuple(tokens)


async def _stats(pool: Fleet) -> list[EngineStats]:
    return [await member.stats.remote() for member in pool.members]


async def _pid(member: Any) -> int:
    return int(await member.__ray_call__.remote(lambda member: os.getpid()))
