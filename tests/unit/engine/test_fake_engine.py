"""The fake engine passes what every engine passes, and answers as its script says."""

from zfleet.engine.contract import BASE_Z, Engine, GenerationRequest, SamplingParams
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import run
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z


class TestFakeEngine(EngineConformance):
    prompts = tuple(fake_tokens(text) for text in ("abc", "hello", "a", "one two three", "xy", "zz top"))

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        return FakeEngine(z_rows=z_rows, slots=slots, step_seconds=0.0005)

    def make_z(self, seed: int) -> ZVector:
        return fake_z(seed)


async def test_a_script_decides_by_prompt_and_z() -> None:
    z = fake_z(1)
    engine = FakeEngine(lambda prompt, digest: {BASE_Z: "base", z.digest: "expert"}[digest] + ":" + prompt)
    await engine.put_z(z)
    sampling = SamplingParams(temperature=0, max_tokens=20)
    assert (await run(engine, GenerationRequest("hi", sampling))).text == "base:hi"
    answer = await run(engine, GenerationRequest("hi", sampling, z.digest))
    assert (answer.text, answer.finish_reason) == ("expert:hi", "stop")
    await engine.close()
