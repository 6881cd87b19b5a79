"""A real registry that goes away under a service: what is loaded goes on, what is new gets 503, and it comes back."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from zfleet.errors import ExpertNotFound, RegistryError, RegistryUnreachable
from zfleet.svf.zvector import ZVector
from zfleet.testing.fake_engine import FakeEngine, fake_z
from zfleet_registry import ExpertRegistry, Provenance
from zfleet_serve.adaptive import last_known, registry_line
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.last_known import LastKnown
from zfleet_serve.adaptive.registry_line import THREADS, Registry
from zfleet_serve.adaptive.service import Service
from zfleet_serve.adaptive.settings import Served
from zfleet_serve.http.gateway import create_app
from zfleet_serve.testing import FakeRegistry, FakeText, Stage, always_asked

Trouble = Callable[[Path], Any]
BASE = "0123abcd" * 8
SLUG = "fake-0123abcd"


def some_z(seed: int) -> ZVector:
    return fake_z(seed, base=BASE)


NAMES = {some_z(1).digest: "one", some_z(2).digest: "two", some_z(3).digest: "sort"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``math`` of two versions, the first its champion, and ``sort``; another base has a ``math`` too."""
    folder = tmp_path_factory.mktemp("registry")
    registry = ExpertRegistry(root=folder)
    for name, seed, alias in (("math", 1, "champion"), ("math", 2, None), ("sort", 3, None)):
        z = some_z(seed)
        registry.register(name, z, Provenance.of(z), base_name="fake", alias=alias)
    z = fake_z(4, base="1a2b3c4d" * 8)
    registry.register("math", z, Provenance.of(z), base_name="other")
    return folder


@pytest.fixture
def file(original: Path, tmp_path: Path) -> Path:
    """The database of a copy."""
    shutil.copytree(original, tmp_path / "registry")
    return tmp_path / "registry" / "mlflow.db"


@asynccontextmanager
async def served(open_registry: Callable[[], Registry]) -> AsyncIterator[httpx.AsyncClient]:
    engine = FakeEngine(lambda prompt, z: NAMES.get(z, "base"), max_length=200, base=BASE)
    experts = Experts(open_registry, engine, SLUG)
    await experts.open()
    service = Service(engine, experts, FakeText(), Served("fake", 200))
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as client:
        yield client
    await experts.close()
    await engine.close()


@pytest.fixture
async def client(file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A service whose every request asks the registry, and waits for it on a slow machine too."""
    _patient(monkeypatch)
    async with served(partial(ExpertRegistry, f"sqlite:///{file}", reading=True)) as client:
        yield client


def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("FRESH_SECONDS", 0.0), ("OLD_SECONDS", 0.0), ("KNOWN_SECONDS", 60.0), ("NEW_SECONDS", 60.0)):
        monkeypatch.setattr(last_known, name, seconds)


async def ask(client: httpx.AsyncClient, model: str) -> tuple[int, str]:
    """Status, and what was said: the answer's text, or the whole error."""
    body = {"model": model, "prompt": "hello", "temperature": 0}
    answer = await client.post("/v1/completions", json=body)
    return answer.status_code, answer.json()["choices"][0]["text"] if answer.is_success else answer.text


@contextmanager
def renamed(file: Path) -> Iterator[None]:
    away = file.with_name("away.db")
    file.rename(away)
    yield
    assert not file.exists(), "a question made a database"
    away.rename(file)


@contextmanager
def folder_renamed(file: Path) -> Iterator[None]:
    away = file.parent.with_name("away")
    file.parent.rename(away)
    yield
    assert not file.parent.exists(), "a question made a folder"
    away.rename(file.parent)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def overwritten(file: Path, data: bytes) -> Iterator[None]:
    whole = file.read_bytes()
    file.write_bytes(data)
    yield
    assert file.read_bytes() == data, "a question made tables"
    file.write_bytes(whole)


@contextmanager
def removed(file: Path) -> Iterator[None]:
    backup = shutil.copy(file, file.with_name("backup.db"))
    file.unlink()
    yield
    assert not file.exists(), "a question made a database"
    shutil.copy(backup, file)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (renamed, "its file is missing"),
        (removed, "its file is missing"),
        (folder_renamed, "its file is missing"),
        (locked, "its file is locked by another process"),
        (partial(overwritten, data=b""), "its file is not a registry"),
        (partial(overwritten, data=b"no database " * 100), "its file is not a readable sqlite database"),
    ],
    ids=["renamed", "removed", "folder renamed", "locked", "emptied", "damaged"],
)
async def test_what_is_loaded_goes_on_and_what_is_new_is_503(
    client: httpx.AsyncClient, file: Path, trouble: Trouble, reason: str
) -> None:
    loaded = {"fake": "base", "fake:math": "one", "fake:math/2": "two", "fake:math@champion": "one"}
    for model, text in loaded.items():
        assert await ask(client, model) == (200, text)
    models = (await client.get("/v1/models")).json()
    with trouble(file):
        for _ in range(2):
            for model, text in loaded.items():
                assert await ask(client, model) == (200, text)
            status, said = await ask(client, "fake:sort")
            assert (status, reason in said) == (503, True)
            assert '"registry_unavailable"' in said
            assert not [word for word in ("sqlite:", str(file.parent), "mlflow") if word in said]
            assert (await client.get("/v1/models")).json() == models
    assert await ask(client, "fake:sort") == (200, "sort")


async def test_a_file_that_was_put_in_place_of_another_is_asked_at_once(
    client: httpx.AsyncClient, file: Path, tmp_path: Path
) -> None:
    assert await ask(client, "fake:math") == (200, "one")
    newer = tmp_path / "newer"
    shutil.copytree(file.parent, newer)
    registry = ExpertRegistry(root=newer)
    registry.set_alias(registry.resolve("math/2", SLUG), "champion")
    file.unlink()
    assert await ask(client, "fake:math") == (200, "one")
    (newer / "mlflow.db").rename(file)
    assert await ask(client, "fake:math") == (200, "two")


async def test_a_service_that_starts_while_the_registry_is_away_serves_the_base(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _patient(monkeypatch)
    with renamed(file):
        open_registry = partial(ExpertRegistry, f"sqlite:///{file}", reading=True)
        async with served(open_registry) as client:
            assert await ask(client, "fake") == (200, "base")
            assert (await ask(client, "fake:math"))[0] == 503
            assert (await client.get("/v1/models")).status_code == 503
            status, said = await ask(client, "fake:no body")
            assert (status, "cannot list its experts now" in said) == (404, True)


@pytest.mark.parametrize(
    "name",
    [
        *("nobody", "math/9", "math/1234567890", "math/" + "9" * 5000, "math@nobody", "m" * 400, "m" * 5000),
        *(
            "math\x00",
            "math\n",
            "math/1\n",
            "a/b",
            "../math",
            "math@" + "a" * 300,
            "math/0",
            "other-1a2b3c4d.math",
        ),
    ],
)
async def test_names_of_nothing_are_404_and_name_neither_the_registry_nor_other_bases(
    client: httpx.AsyncClient, file: Path, name: str
) -> None:
    body = json.dumps({"model": f"fake:{name}", "prompt": "hello"})
    answer = await client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    own = error["message"].replace(repr(name)[1:-1], "")
    assert not [word for word in ("sqlite", str(file.parent), "mlflow", "1a2b3c4d") if word in own]


@dataclass
class Hanging(FakeRegistry):
    """Hangs from when it is held until it is freed."""

    free: threading.Event = field(default_factory=threading.Event)
    hanging: int = 0
    most: int = 0

    def resolve(self, reference: str, base_slug: str | None = None) -> Any:
        self.hanging += 1
        self.most = max(self.most, self.hanging)
        self.free.wait()
        self.hanging -= 1
        return super().resolve(reference, base_slug)


async def test_questions_that_hang_hold_few_threads_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("FRESH_SECONDS", 0.0), ("OLD_SECONDS", 0.0), ("KNOWN_SECONDS", 0.02), ("NEW_SECONDS", 0.1)):
        monkeypatch.setattr(last_known, name, seconds)
    monkeypatch.setattr(registry_line, "NEW_SECONDS", 0.1)
    registry = Hanging()
    registry.free.set()
    registry.add("math", some_z(1))
    registry.add("sort", some_z(3))
    async with served(lambda: registry) as client:
        assert await ask(client, "fake:math") == (200, "one")
        registry.free.clear()
        try:
            crowd = [ask(client, model) for number in range(20) for model in ("fake:math", f"fake:new{number}")]
            answers = await asyncio.gather(*crowd)
        finally:
            registry.free.set()
        assert answers[::2] == [(200, "one")] * 20
        assert {status for status, _ in answers[1::2]} == {503}
        assert "no answer in time" in answers[1][1]
        assert registry.most <= THREADS
        while (found := await ask(client, "fake:sort"))[0] == 503:
            await asyncio.sleep(0.01)
        assert found == (200, "sort")


async def test_one_question_at_a_time_and_its_answer_counts_although_nobody_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_known, "NEW_SECONDS", 0.01)
    free = asyncio.Event()
    asked: list[int] = []

    async def answer() -> int:
        asked.append(len(asked))
        await free.wait()
        return asked[-1]

    known = LastKnown(answer)
    found = await asyncio.gather(*(known.get() for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in found} == {RegistryUnreachable}
    assert asked == [0]
    assert not known.empty
    free.set()
    assert await known.get() == 0
    assert (await known.get(), asked) == (0, [0])
    always_asked(monkeypatch)
    assert await known.get() == 1


async def test_what_the_registry_no_longer_has_is_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    always_asked(monkeypatch)
    assert (await ask(stage.http, "fake:sort"))[0] == 200
    stage.registry.versions = [version for version in stage.registry.versions if version.name != "sort"]
    assert (await ask(stage.http, "fake:sort"))[0] == 404

    async def gone() -> int:
        raise ExpertNotFound("gone")

    known = LastKnown(gone)
    with pytest.raises(ExpertNotFound):
        await known.get()
    assert known.empty


async def test_what_goes_on_because_of_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The champion has become a version whose tags somebody edited, for example."""
    answers: list[int | RegistryError] = [1, *[RegistryError("the tags of math/2 were edited")] * 3, 2, 2]

    async def say() -> int:
        answer = answers.pop(0)
        if isinstance(answer, RegistryError):
            raise answer
        return answer

    known = LastKnown(say)
    assert await known.get() == 1
    for expected in (1, 1, 1, 2, 2):
        known._looked = known._answered = 0.0
        assert await known.get() == expected
    assert [record.getMessage() for record in caplog.records] == [
        "the registry's last answer stays in use: the tags of math/2 were edited"
    ]
