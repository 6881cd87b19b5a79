"""The fleet on real processes, held by Ray and by Ray Serve: the engine contract, and replicas that are killed.

What needs no process (who gets which request, replicas that join, leave and forget) is in tests/unit/cluster. Here are
real ones, because Ray and Serve decide how replicas are found, die and are started again; the conformance suite opens
one process again for each of its tests.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Chunk, Completion, Engine, GenerationRequest
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import BaseModelError, EngineError, JobError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import run_all, sampled
from zfleet_cluster.fleet import actors
from zfleet_cluster.fleet.actors import ActorReplicas, Fleet, _end, actor_fleet
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.links import Replicas
from zfleet_cluster.fleet.replica import Replica

TEXTS = ("flip bca", "reverse hello", "sort ab", "add 3 4", "kind? turn xyz", "order qwe")
TOKEN = secrets.token_bytes(32)
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
def make_fleet_z(bundle: BaseBundle) -> Make:
    """``make_z`` on the factors that were shipped."""
    model = bundle.open()

    def make(seed: int) -> ZVector:
        generator = torch.Generator().manual_seed(seed)
        return model.z_from_flat(1 + 0.3 * torch.randn(model.layout.size, generator=generator))

    return make


def _reopening() -> Any:
    """A replica whose engine can be another for every test: starting a process takes seconds."""

    class Reopening(Replica):
        model: SvfModel | None = None

        async def start_engine(self, base: ShippedBase) -> Engine:
            if self.model is None:
                self.model = (await asyncio.to_thread(base.find)).open()
            return TorchEngine(self.model, self._spec)

        async def reopen(self, shipped: ShippedBase, spec: EngineSpec) -> None:
            await self.close()
            self._spec, self._address, self._listener = spec, None, None
            await self.open(shipped)

    return Reopening


@pytest.fixture(scope="module")
def actor(ray_cluster: None) -> Iterator[Any]:
    held: Any = ray.remote(_reopening()).options(num_cpus=0, max_concurrency=1000)
    actor = held.remote(EngineSpec(), 1, TOKEN)
    yield actor
    ray.kill(actor)


@pytest.fixture(scope="module")
def handle(ray_cluster: None) -> Iterator[Any]:
    from ray import serve

    deployment: Any = serve.deployment(_reopening(), name="engine")
    serve.start(proxy_location="Disabled")
    options = deployment.options(ray_actor_options={"num_cpus": 0})
    yield serve.run(options.bind(EngineSpec(), 1, TOKEN), name="conformance", route_prefix=None)
    serve.delete("conformance")
    serve.shutdown()  # type: ignore[no-untyped-call]


class FleetConformance(EngineConformance):
    """One replica: more would each count the z that they hold."""

    replica: Any

    @pytest.fixture(autouse=True)
    def _fleet(self, prompts: tuple[tuple[int, ...], ...], make_fleet_z: Make, shipped: ShippedBase) -> None:
        self._make_z, self._shipped = make_fleet_z, shipped
        self.prompts = prompts

    @abstractmethod
    def replicas(self) -> Replicas:
        """Say where the replica is."""

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        await self.replica.reopen.remote(self._shipped, EngineSpec(slots=slots, z_rows=z_rows))
        return FleetEngine(self.replicas(), TOKEN, 256, 60)

    def make_z(self, seed: int) -> ZVector:
        return self._make_z(seed)


class TestHeldByRay(FleetConformance):
    @pytest.fixture(autouse=True)
    def _held(self, actor: Any) -> None:
        self.replica = actor

    def replicas(self) -> Replicas:
        return ActorReplicas((self.replica,), self._shipped)


class TestHeldByServe(FleetConformance):
    @pytest.fixture(autouse=True)
    def _held(self, handle: Any) -> None:
        self.replica = handle

    def replicas(self) -> Replicas:
        from zfleet_cluster.fleet.serve_replicas import ServeReplicas

        return ServeReplicas(self.replica)


@pytest.fixture(scope="module")
def expected(bundle: BaseBundle, make_fleet_z: Make) -> Callable[[list[GenerationRequest]], list[Completion]]:
    """Answers of an engine in this process that knows z 1 and 2."""

    def answers(requests: list[GenerationRequest]) -> list[Completion]:
        with SyncEngine(TorchEngine(bundle.open(), EngineSpec(slots=16))) as engine:
            for seed in (1, 2):
                engine.put_z(make_fleet_z(seed))
            return [answer for (answer,) in engine.generate(requests)]

    return answers


async def test_a_replica_killed_under_load_is_replaced(
    shipped: ShippedBase, prompts: tuple[tuple[int, ...], ...], make_fleet_z: Make, expected: Any
) -> None:
    z = make_fleet_z(1)
    with actor_fleet(shipped, EngineSpec(slots=16), ResourceSpec(), replicas=2) as fleet:
        async with _client(fleet) as engine, _client(fleet) as idle:
            digest = await engine.put_z(z)
            await idle.put_z(z)
            requests = [sampled(prompt, 5, z) for prompt in prompts for z in (BASE_Z, digest)]
            assert await run_all(engine, requests) == await asyncio.to_thread(expected, requests)
            pids = [await _pid(actor) for actor in fleet.actors]
            long = [replace(sampled(prompt, 7, digest, max_tokens=200), stream=True) for prompt in prompts]
            streams = [engine.generate(request) for request in long]
            begun = [list((await anext(stream)).token_ids) for stream in streams]
            unsent = [sampled(prompt, 9, digest, max_tokens=100) for prompt in prompts]
            waiting = asyncio.create_task(_all(engine, unsent))
            await asyncio.sleep(0.05)
            os.kill(pids[0], signal.SIGKILL)
            outcomes = await asyncio.gather(
                *(_rest(stream, start) for stream, start in zip(streams, begun, strict=True)), return_exceptions=True
            )
            whole, answers = [await asyncio.to_thread(expected, asked) for asked in (long, unsent)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert 1 <= len(lost) <= 3, "three of six streams were the dead replica's, unless one had ended"
            assert all("died with the request" in str(error) for error in lost)
            for outcome, answer in zip(outcomes, whole, strict=True):
                assert isinstance(outcome, EngineError) or outcome == answer.token_ids
            assert await waiting == answers
            # The other one, too: what waits now is answered by the one that came back, which is given its z again by
            # both clients, whether they asked for anything while it was away or not.
            os.kill(pids[1], signal.SIGKILL)
            async with asyncio.timeout(300):
                assert await run_all(engine, unsent) == answers
                assert await run_all(idle, unsent) == answers
                while len(engine._links.all()) < 2:
                    assert await run_all(engine, unsent * 2) == answers * 2
            assert not {await _pid(actor) for actor in fleet.actors} & set(pids)
            assert await run_all(engine, unsent * 2) == answers * 2
            async with _client(replace(fleet, actors=fleet.actors[:1])) as back:
                stats = await back.stats()
            assert (stats.known_z, stats.generated_tokens > 0) == (1, True)
        pids = [await _pid(actor) for actor in fleet.actors]
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=120)
    assert not alive, "a replica outlived its fleet"


def test_what_keeps_a_replica_from_starting_arrives_as_it_was_raised(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: what a base that cannot be opened raises is in tests/unit/models."""

    class Refusing:
        def __init__(self, *_: object) -> None:
            pass

        async def open(self, base: object) -> None:
            raise BaseModelError("the base is damaged", "fetch it again")

        async def close(self) -> None:
            pass

    monkeypatch.setattr(actors, "Replica", Refusing)
    shipped: Any = None
    with pytest.raises(BaseModelError) as raised, actor_fleet(shipped, EngineSpec(), ResourceSpec(), replicas=1):
        pass
    assert (raised.value.message, raised.value.remedy) == ("the base is damaged", "fetch it again")


def test_a_fleet_that_leaves_no_room_for_a_worker_is_refused(shipped: ShippedBase) -> None:
    too_large = actor_fleet(shipped, EngineSpec(), ResourceSpec(cpus=3), replicas=2)
    with pytest.raises(JobError, match="2 engines need 3 CPU each") as refused, too_large:
        pass
    assert "the cluster has 8 CPU" in str(refused.value)


def test_a_dead_replica_keeps_no_other_from_closing(ray_cluster: None, tmp_path: Path) -> None:
    class Closing:
        async def close(self) -> None:
            await asyncio.sleep(0.3)
            (tmp_path / "closed").touch()

    actor: Any = ray.remote(num_cpus=0)(Closing)
    dead, alive = actor.remote(), actor.remote()
    ray.get(alive.__ray_ready__.remote())
    ray.kill(dead)
    _end((dead, alive))
    assert (tmp_path / "closed").exists()


@asynccontextmanager
async def _client(fleet: Fleet) -> AsyncIterator[FleetEngine]:
    engine = fleet.engine()
    try:
        yield engine
    finally:
        await engine.close()


async def _all(engine: Engine, requests: list[GenerationRequest]) -> list[Completion]:
    return await run_all(engine, requests)


async def _rest(stream: AsyncIterator[Chunk], tokens: list[int]) -> tuple[int, ...]:
    async for chunk in stream:
        tokens.extend(chunk.token_ids)
    return tuple(tokens)


async def _pid(actor: Any) -> int:
    process: str = await actor.process.options(max_task_retries=-1).remote()
    return int(process.split()[1])
