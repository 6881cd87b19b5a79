"""An engine whose z-vectors outlive the replica behind it is still an engine."""

import pytest

from zfleet.engine.contract import Engine, ScoreRequest
from zfleet.errors import UnknownZ
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import greedy, run
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_serve.lasting_engine import LastingEngine


class TestLastingEngine(EngineConformance):
    prompts = tuple(fake_tokens(text) for text in ("abc", "hello", "a", "one two three", "xy", "zz top"))

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        return LastingEngine(FakeEngine(z_rows=z_rows, slots=slots, step_seconds=0.0005))

    def make_z(self, seed: int) -> ZVector:
        return fake_z(seed)


async def test_what_the_engine_forgot_is_put_again() -> None:
    engine = FakeEngine()
    lasting = LastingEngine(engine)
    digest = await lasting.put_z(fake_z(1))
    before = await run(lasting, greedy((97,), digest))
    score = await lasting.score(ScoreRequest((97,), (98,), digest))
    await engine.drop_z(digest)
    assert await run(lasting, greedy((97,), digest)) == before
    await engine.drop_z(digest)
    assert await lasting.score(ScoreRequest((97,), (98,), digest)) == score


async def test_only_so_many_are_kept() -> None:
    engine = FakeEngine()
    lasting = LastingEngine(engine, kept=2)
    digests = [await lasting.put_z(fake_z(seed)) for seed in range(2)]
    await run(lasting, greedy((97,), digests[0]))
    await lasting.put_z(fake_z(2))
    assert [lasting.holds(digest) for digest in digests] == [True, False]
    assert (await engine.stats()).known_z == 2
    with pytest.raises(UnknownZ):
        await run(lasting, greedy((97,), digests[1]))
