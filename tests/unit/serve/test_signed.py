"""A service that demands signatures, over a real registry: what nobody trusted signed is refused, not replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from zfleet.engine.contract import BASE_Z
from zfleet.testing.fake_engine import FakeEngine, fake_z
from zfleet_registry import ExpertRegistry, Provenance
from zfleet_registry.signatures import Signer, sign_version
from zfleet_registry.testing import write_key
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.service import Service
from zfleet_serve.adaptive.settings import Served
from zfleet_serve.http.gateway import create_app
from zfleet_serve.testing import MAX_LENGTH, FakeText

FINGERPRINT = "0123abcd" * 8
SLUG = "fake-0123abcd"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Serve `math` (signed), `code` (not signed), `theirs` (by an unknown key) and `copy` (math's z, not signed)."""
    write_key(tmp_path, "release")
    write_key(tmp_path, "stranger")
    registry = ExpertRegistry(root=tmp_path)
    for seed, name, signer in ((1, "math", "release"), (2, "code", ""), (3, "theirs", "stranger"), (1, "copy", "")):
        z = fake_z(seed, base=FINGERPRINT)
        version = registry.register(name, z, Provenance.of(z), base_name="fake")
        if signer:
            sign_version(registry, version, Signer(tmp_path / f"{signer}.key"))
    engine = FakeEngine(lambda prompt, z: "base" if z == BASE_Z else z[:12], base=FINGERPRINT, max_length=MAX_LENGTH)
    key = (tmp_path / "release.pub").read_text()
    strict = partial(ExpertRegistry, root=tmp_path, reading=True, require_signed_by=[key])
    experts = Experts(strict, engine, SLUG)
    await experts.open()
    app = create_app(Service(engine, experts, FakeText(), Served("fake", MAX_LENGTH)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as client:
        yield client
    await experts.close()
    await engine.close()


async def test_an_expert_that_nobody_trusted_signed_is_refused(http: httpx.AsyncClient) -> None:
    async def ask(model: str, **more: object) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "1 plus 1"}], **more}
        return await http.post("/v1/chat/completions", json=body, timeout=60)

    answer = await ask("fake:math")
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    assert said == fake_z(1, base=FINGERPRINT).digest[:12]
    # `copy` has the z that the engine holds by now, and is not signed.
    for model in ("fake:code", "fake:theirs", "fake:copy", "fake:copy/1"):
        refused = await ask(model)
        assert refused.status_code == 500, refused.text
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("UntrustedVersion", "model")
        assert "is not signed by anyone whom this service trusts" in error["message"]
    assert (await ask("fake")).json()["choices"][0]["message"]["content"] == "base"
