"""Traffic that several aliases share: how much each gets, and that a user stays with one."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.testing.fake_engine import fake_z
from zfleet_registry import ExpertVersion, Provenance
from zfleet_registry.promotion import Traffic
from zfleet_serve.adaptive.shares import Shares
from zfleet_serve.testing import SLUG, Stage, always_asked


def version(number: int) -> ExpertVersion:
    provenance = Provenance.of(fake_z(number))
    return ExpertVersion("math", SLUG, number, (), provenance.z_digest, datetime.now(UTC), "run", provenance, "z", "")


OLD, NEW = version(1), version(2)


def shares(percent: int) -> Shares:
    return Shares(((percent, NEW), (100 - percent, OLD)))


def test_each_alias_gets_its_share_of_the_users() -> None:
    users = [f"user {number}" for number in range(20_000)]
    got = Counter(shares(10).version_for(user).version for user in users)
    assert got[NEW.version] / len(users) == pytest.approx(0.1, abs=0.01)
    drawn = Counter(shares(10).version_for(None).version for _ in users)
    assert drawn[NEW.version] / len(users) == pytest.approx(0.1, abs=0.015)


@given(st.text(), st.integers(1, 98))
def test_a_user_stays_and_moves_once_when_a_share_grows(user: str, percent: int) -> None:
    before, after = shares(percent).version_for(user), shares(percent + 1).version_for(user)
    assert before == shares(percent).version_for(user)
    assert before == after or (before, after) == (OLD, NEW)


async def test_the_service_follows_the_registrys_shares(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    always_asked(monkeypatch)

    async def answers(**extra: str) -> Counter[str]:
        asked = {"model": "fake:math", "messages": [{"role": "user", "content": "sum"}], **extra}
        got: Counter[str] = Counter()
        for _ in range(40):
            answer = (await stage.http.post("/v1/chat/completions", json=asked)).json()
            assert answer["choices"][0]["message"]["content"].startswith(
                {"fake:math/1": "old math:", "fake:math/2": "math:"}[answer["zfleet"]["model"]]
            )
            got[answer["zfleet"]["model"]] += 1
        return got

    assert await answers() == {"fake:math/2": 40}
    stage.registry.alias("math", 1, "old")
    stage.registry.shared["math"] = Traffic({"champion": 50, "old": 50})
    assert set(await answers()) == {"fake:math/1", "fake:math/2"}
    assert len(await answers(user="ann")) == 1, "a user stays with one version"
    stage.registry.shared["math"] = Traffic({"old": 100})
    assert await answers() == {"fake:math/1": 40}
    versioned = {"model": "fake:math/2", "messages": [{"role": "user", "content": "sum"}]}
    answer = (await stage.http.post("/v1/chat/completions", json=versioned)).json()
    assert answer["zfleet"]["model"] == "fake:math/2", "who names a version gets it"
