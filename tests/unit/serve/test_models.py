"""Models are looked up by the names that requests use."""

from __future__ import annotations

from urllib.parse import quote

import openai
import pytest

from zfleet_serve.testing import Stage

THERE = ["fake", "fake:auto", "fake:math", "fake:math/1", "fake:math@champion", "fake:both"]
MISSING = [
    "other",
    "fake:nobody",
    "fake:math/9",
    "fake:math@none",
    "fake:math/",
    "fake:",
    "fake:a:b",
    "/",
    "fake:a/b/c",
]


@pytest.mark.parametrize("model", THERE)
async def test_a_model_that_is_there(stage: Stage, model: str) -> None:
    found = await stage.client.models.retrieve(model)
    assert (found.id, found.object, found.owned_by) == (model, "model", "zfleet")
    for path in (model, quote(model, safe=""), quote(model)):
        response = await stage.http.get(f"/v1/models/{path}")
        assert response.status_code == 200
        assert response.json()["id"] == model


@pytest.mark.parametrize("model", MISSING)
async def test_a_model_that_is_not_there(stage: Stage, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await stage.client.models.retrieve(model)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert repr(model) in caught.value.message


async def test_what_is_listed_is_there(stage: Stage) -> None:
    listed = [model async for model in stage.client.models.list()]
    assert listed == [await stage.client.models.retrieve(model.id) for model in listed]


async def test_auto_is_not_there_without_its_classifier(stage: Stage) -> None:
    stage.registry.versions = [version for version in stage.registry.versions if version.name != "kind"]
    with pytest.raises(openai.NotFoundError):
        await stage.client.models.retrieve("fake:auto")


@pytest.mark.parametrize("before", ["", "math/", "math@"])
@pytest.mark.parametrize("letter", ["1", "n", "é"])
@pytest.mark.parametrize("times", [201, 1000, 100_000])
async def test_a_name_that_is_too_long_is_404(stage: Stage, before: str, letter: str, times: int) -> None:
    body = {"model": f"fake:{before}{times * letter}", "messages": [{"role": "user", "content": "a"}]}
    response = await stage.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert len(response.text) < 2000
    assert not [call for call in stage.registry.calls if call.startswith("resolve")]


async def test_a_model_says_what_it_is(stage: Stage) -> None:
    """``root`` and ``parent`` as vLLM lists adapters."""
    listed = {model["id"]: model for model in (await stage.http.get("/v1/models")).json()["data"]}
    assert (listed["fake"]["root"], listed["fake"]["parent"]) == ("fake", None)
    assert {model["max_model_len"] for model in listed.values()} == {200}
    assert {model["parent"] for name, model in listed.items() if name != "fake"} == {"fake"}
    roots = {"fake:auto": "fake:kind/1", "fake:math": "fake:math/2", "fake:both": "fake:both/1"}
    assert {name: listed[name]["root"] for name in roots} == roots
    kinds = {"fake": "base", "fake:auto": "auto", "fake:math": "expert", "fake:both": "mixture"}
    assert {name: listed[name]["zfleet"]["kind"] for name in kinds} == kinds
    math = listed["fake:math"]["zfleet"]
    assert (math["version"], math["versions"], math["aliases"]) == (2, [1, 2], {"champion": 2})
    assert math["z"] == stage.registry.versions[2].z_digest
    old = (await stage.http.get("/v1/models/fake:math/1")).json()
    assert (old["root"], old["zfleet"]["version"], old["zfleet"]["versions"]) == ("fake:math/1", 1, [1, 2])
