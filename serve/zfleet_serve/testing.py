"""For tests: a service over the fake engine and a registry in memory, reached over ASGI without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import openai
import pytest

from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.names import CHAMPION
from zfleet.engine.contract import BASE_Z
from zfleet.errors import CorruptArtifact, ExpertNotFound
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.testing.fake_engine import FakeEngine, fake_text, fake_tokens, fake_z
from zfleet_registry import ExpertVersion, Parent, Provenance, references
from zfleet_registry.promotion import Traffic
from zfleet_serve.access.control import AccessControl
from zfleet_serve.access.engine import LimitedEngine
from zfleet_serve.access.fair_queue import FairQueue
from zfleet_serve.adaptive import last_known
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.service import Service
from zfleet_serve.adaptive.settings import Served
from zfleet_serve.http.gateway import create_app

SLUG = "fake-0123abcd"
MAX_LENGTH = 200
MOST_WAITING, MOST_WAITING_EACH = 256, 128


class FakeText:
    """A tokenizer: one token a character; a chat is its last message."""

    def chat(self, turns: list[dict[str, str]]) -> tuple[int, ...]:
        return fake_tokens(turns[-1]["content"])

    def tokens(self, text: str, special: bool = True) -> tuple[int, ...]:
        return fake_tokens(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return fake_text(tuple(tokens))

    def names(self, tokens: Sequence[int]) -> list[str]:
        return [fake_text((token,)) for token in tokens]

    def info(self) -> dict[str, Any]:
        return {"tokenizer_class": "FakeText"}

    def bytes_after(self, prompt: tuple[int, ...]) -> FakeBytes:
        return FakeBytes()


class FakeBytes:
    """The bytes of tokens that are characters."""

    def __call__(self, token: int) -> bytes:
        return fake_text((token,)).encode()

    def of_other(self, token: int) -> bytes:
        return self(token)


# Inside the class ``list`` is a method.
Versions = list[ExpertVersion]


@dataclass
class FakeRegistry:
    """Versions in memory; the newest is the champion. Counts its calls."""

    versions: list[ExpertVersion] = field(default_factory=list)
    zs: dict[str, ZVector] = field(default_factory=dict)
    dispatchers: dict[str, StoredDispatcher] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    shared: dict[str, Traffic] = field(default_factory=dict)

    def traffic(self, base_slug: str, name: str) -> Traffic:
        return self.shared.get(name, Traffic())

    def add(self, name: str, z: ZVector, slug: str = SLUG, parents: tuple[Parent, ...] = ()) -> ExpertVersion:
        version = self._added(name, slug, Provenance.of(z, parents=parents, kind="mixture" if parents else "expert"))
        self.zs[version.z_digest] = z
        return version

    def alias(self, name: str, number: int, alias: str) -> None:
        for place, version in enumerate(self.versions):
            if (version.name, version.version) == (name, number):
                self.versions[place] = replace(version, aliases=(*version.aliases, alias))

    def add_dispatcher(self, name: str, dispatcher: StoredDispatcher) -> ExpertVersion:
        provenance = Provenance.of_dispatcher(dispatcher, spec="", code_version="", metrics={})
        self.dispatchers[dispatcher.digest] = dispatcher
        return self._added(name, SLUG, provenance)

    def resolve(self, reference: str, base_slug: str | None = None) -> ExpertVersion:
        self.calls.append(f"resolve {reference}")
        asked = references.parse(reference)
        alias = asked.alias or CHAMPION
        for version in reversed(self.versions):
            wanted = version.version == asked.version if asked.version else alias in version.aliases
            if (version.name, version.base_slug) == (asked.name, base_slug) and wanted:
                return version
        raise ExpertNotFound(f"there is no {reference!r}")

    def load(self, version: ExpertVersion) -> ZVector:
        self.calls.append(f"load {version.reference}")
        if version.z_digest not in self.zs:
            raise CorruptArtifact(f"{version.reference} is damaged", "register it again")
        return self.zs[version.z_digest]

    def load_dispatcher(self, version: ExpertVersion) -> StoredDispatcher:
        self.calls.append(f"load {version.reference}")
        return self.dispatchers[version.provenance.dispatcher_digest]

    def list(self, base_slug: str | None = None) -> Versions:
        return [version for version in self.versions if version.base_slug == base_slug]

    def _added(self, name: str, slug: str, provenance: Provenance) -> ExpertVersion:
        older = [version for version in self.versions if (version.name, version.base_slug) == (name, slug)]
        for version in older:
            self.versions[self.versions.index(version)] = replace(version, aliases=())
        number, now = len(older) + 1, datetime.now(UTC)
        version = ExpertVersion(name, slug, number, (CHAMPION,), provenance.z_digest, now, "run", provenance, "z", "")
        self.versions.append(version)
        return version


@dataclass
class Stage:
    """What a test holds: the parts, and clients that reach the application.

    Attributes:
        registry: Holds ``kind``, ``math`` (versions 1 and 2), ``sort`` and the mixture ``both``.
        engine: Behind the service.
        service: What the application asks.
        http: A plain client.
        client: The OpenAI client.
    """

    registry: FakeRegistry
    engine: FakeEngine
    service: Service
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI


@asynccontextmanager
async def fake_stage(dispatcher: str | None = None, access: AccessControl | None = None) -> AsyncIterator[Stage]:
    """A base ``fake`` whose experts say their name and the prompt; ``kind`` says the prompt's second word.

    Args:
        dispatcher: Chooses for ``auto``, once it is registered; None leaves that to ``kind``.
        access: Decides who may ask; None: everybody.
    """
    registry = FakeRegistry()
    kind, math, sort = fake_z(1), fake_z(2), fake_z(3)
    registry.add("kind", kind)
    old = registry.add("math", fake_z(9))
    new = registry.add("math", math)
    other = registry.add("sort", sort)
    parents = (Parent(new.reference, math.digest, 0.75), Parent(other.reference, sort.digest, (0.5, 0.25)))
    mixed = mix([math, sort], [0.75, (0.5, 0.25)])
    registry.add("both", mixed, parents=parents)
    speakers = {
        BASE_Z: "base",
        old.z_digest: "old math",
        math.digest: "math",
        sort.digest: "sort",
        mixed.digest: "both",
    }

    def script(prompt: str, z: str) -> str:
        return prompt.split()[1] if z == kind.digest else f"{speakers.get(z, 'a mixture')}: {prompt}"

    engine = FakeEngine(script, max_length=MAX_LENGTH)
    labels = {"plus": "math", "lost": "gone"} if dispatcher is None else {}
    served = Served("fake", MAX_LENGTH, labels=labels, dispatcher=dispatcher)
    access = access or AccessControl()
    limited = LimitedEngine(engine, FairQueue(lambda: 16, MOST_WAITING, MOST_WAITING_EACH), access.rates)
    service = Service(limited, Experts(lambda: registry, limited, SLUG), FakeText(), served)
    transport = httpx.ASGITransport(create_app(service, access), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        # The client takes either generation of httpx; its types name the newer one alone.
        either: Any = http
        client = openai.AsyncOpenAI(base_url="http://fake/v1", api_key="none", http_client=either, max_retries=0)
        yield Stage(registry, engine, service, http, client)
    await engine.close()


def always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every request ask the registry, and take no answer that is a moment old."""
    monkeypatch.setattr(last_known, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(last_known, "OLD_SECONDS", 0.0)
