"""A real service under load whose registry is renamed, locked, emptied, removed and restored.

What a gateway does about each is in tests/unit/serve. Here is a real service, because waits under load are measured.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.models.bundle import pack_base
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_cli.demo.lab.served import free_port
from zfleet_registry import ExpertRegistry, Provenance

STREAMS = 32
AWAY_SECONDS = 4.0
ASKED = 8
"""How often something new is asked for while the registry is away."""


@dataclass(frozen=True)
class Spoken:
    """A stream of an expert that is loaded.

    Attributes:
        status: Of its response.
        whole: Whether it came to its end.
        first: Seconds to its first event.
        ended: When (``time.monotonic``).
    """

    status: int
    whole: bool
    first: float
    ended: float


@dataclass(frozen=True)
class Survived:
    """What clients saw of one trouble.

    Attributes:
        streams: How many of loaded experts came to their end meanwhile.
        waited: The longest wait for a first event among them, in seconds.
        refused: The longest wait for a 503.
        noticed: From the end of the trouble to the first answer of a new expert, in seconds.
    """

    streams: int
    waited: float
    refused: float
    noticed: float


@contextmanager
def renamed(file: Path) -> Iterator[None]:
    away = file.with_name("away.db")
    file.rename(away)
    yield
    assert not file.exists()
    away.rename(file)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def emptied(file: Path) -> Iterator[None]:
    whole = file.read_bytes()
    file.write_bytes(b"")
    yield
    assert file.read_bytes() == b""
    file.write_bytes(whole)


@contextmanager
def removed(file: Path) -> Iterator[None]:
    backup = shutil.copy(file, file.with_name("backup.db"))
    file.unlink()
    yield
    assert not file.exists()
    shutil.copy(backup, file)


TROUBLES: tuple[Callable[[Path], AbstractContextManager[None]], ...] = (renamed, locked, emptied, removed)


async def survive(url: str, loaded: list[str], new: list[str], file: Path) -> dict[str, Survived]:
    """Hold streams of loaded experts through every trouble, and ask for a new one in each.

    Args:
        url: Of the service.
        loaded: Models that the streams ask for.
        new: Models that nobody asked for before, one for each trouble.
        file: The registry's database.
    """
    found = {}
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        for model in loaded:
            assert (await _ask(client, model))[0] == 200
        async with _streams(client, loaded) as spoken:
            await _goes_on(spoken, 0.0)
            found["untroubled"] = _summed(spoken, 0.0, 0.0, 0.0)
            for trouble, model in zip(TROUBLES, new, strict=True):
                began = time.monotonic()
                with trouble(file):
                    refusals = [await _ask(client, model) for _ in range(ASKED)]
                    assert [status for status, _, _ in refusals] == [503] * ASKED
                    assert not [text for _, _, text in refusals if str(file.parent) in text or "sqlite:" in text]
                    await asyncio.sleep(max(0.0, began + AWAY_SECONDS - time.monotonic()))
                    await _goes_on(spoken, began)
                restored = time.monotonic()
                while (await _ask(client, model))[0] == 503:
                    await asyncio.sleep(0.05)
                noticed = time.monotonic() - restored
                found[trouble.__name__] = _summed(spoken, began, max(seconds for _, seconds, _ in refusals), noticed)
    assert {(one.status, one.whole) for one in spoken} == {(200, True)}
    return found


async def _goes_on(spoken: list[Spoken], since: float) -> None:
    """Wait until as many streams as there are at once came to their end."""
    while sum(one.ended > since for one in spoken) < STREAMS:
        await asyncio.sleep(0.05)


@asynccontextmanager
async def _streams(client: httpx.AsyncClient, models: list[str]) -> AsyncIterator[list[Spoken]]:
    """Streams that follow one another; all end with the block."""
    spoken: list[Spoken] = []
    enough = asyncio.Event()

    async def speak(model: str) -> None:
        while not enough.is_set():
            spoken.append(await _stream(client, model))

    speakers = [asyncio.create_task(speak(models[place % len(models)])) for place in range(STREAMS)]
    yield spoken
    enough.set()
    await asyncio.gather(*speakers)


async def _stream(client: httpx.AsyncClient, model: str) -> Spoken:
    body = _body(model, max_tokens=32) | {"stream": True}
    began, first, last = time.monotonic(), None, ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            first = first or time.monotonic()
            last = line or last
    ended = time.monotonic()
    return Spoken(response.status_code, last == "data: [DONE]", (first or ended) - began, ended)


async def _ask(client: httpx.AsyncClient, model: str) -> tuple[int, float, str]:
    """Status, seconds and body."""
    began = time.monotonic()
    answer = await client.post("/v1/chat/completions", json=_body(model, max_tokens=1))
    return answer.status_code, time.monotonic() - began, answer.text


def _body(model: str, max_tokens: int) -> dict[str, object]:
    message = {"role": "user", "content": "flip abc"}
    return {"model": model, "messages": [message], "max_tokens": max_tokens, "temperature": 1.0}


def _summed(spoken: list[Spoken], since: float, refused: float, noticed: float) -> Survived:
    waits = [one.first for one in spoken if one.ended >= since]
    print(f"{len(waits)} streams, median wait {statistics.median(waits):.2f} s, longest {max(waits):.2f} s")
    return Survived(len(waits), max(waits), refused, noticed)


@pytest.mark.drill
async def test_a_service_survives_its_registry(
    ray_cluster: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zfleet_serve.run import start_service

    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    base = BaseSpec(model=str(tiny_folder))
    factors = pack_base(base).open().factors
    file = tmp_path / "registry" / "mlflow.db"
    registry = ExpertRegistry(f"sqlite:///{file}")

    def put(name: str, z: ZVector) -> None:
        registry.register(name, z, Provenance.of(z), base_name="tiny", alias="champion")

    for seed, name in enumerate(("math", "sort", *(f"new{place}" for place in range(len(TROUBLES))))):
        put(name, random_z(factors, seed))
    service = await asyncio.to_thread(
        start_service,
        ServeSpec(base=base, registry=registry.address, port=free_port(), engine=EngineSpec(slots=STREAMS)),
    )
    try:
        loaded = ["tiny", "tiny:math", "tiny:math/1", "tiny:sort@champion"]
        found = await survive(service.url, loaded, [f"tiny:new{place}" for place in range(len(TROUBLES))], file)
    finally:
        await asyncio.to_thread(service.stop)
    for name, one in found.items():
        print(f"{name}: {one}")
        # Beside what any request waits on a machine that is busy with the streams.
        assert one.refused < found["untroubled"].waited + 1
        assert one.noticed < 5
