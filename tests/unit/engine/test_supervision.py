"""Nothing hangs because something died: errors thrown at every call inside an engine's loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from zfleet import supervise
from zfleet.config.specs import EngineSpec
from zfleet.engine.admission import Admission
from zfleet.engine.contract import (
    BASE_Z,
    ChoicesRequest,
    Completion,
    Engine,
    GenerationRequest,
    HiddenRequest,
    SamplingParams,
    ScoreRequest,
    collect,
)
from zfleet.engine.torch_engine import batch, sequence
from zfleet.engine.torch_engine import engine as engine_module
from zfleet.engine.torch_engine.batch import TorchBatch
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.engine.torch_engine.schedule import Schedule
from zfleet.engine.torch_engine.sequence import SequenceState
from zfleet.engine.torch_engine.single_pass import SinglePass
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.engine.torch_engine.text import TextStream
from zfleet.engine.z_table import TensorZTable
from zfleet.errors import EngineError, ZfleetError
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import greedy, run
from zfleet.testing.fake_answer import FakeAnswer
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet.testing.fake_model import FakeModel
from zfleet.testing.fake_table import FakeTable

SECONDS = 30.0
"""No bound on speed, but an end to what would wait for ever."""

CALLS: list[tuple[object, str]] = [
    (Admission, "admit"),
    (Admission, "leave"),
    (TensorZTable, "pin"),
    (TensorZTable, "fill"),
    (TensorZTable, "unpin"),
    (TensorZTable, "unuse"),
    (Schedule, "plan"),
    (Schedule, "finish"),
    (TorchBatch, "run"),
    (TorchBatch, "prefill"),
    (TorchBatch, "extend"),
    (TorchBatch, "decode"),
    (TorchBatch, "score"),
    (TorchBatch, "pool"),
    (TorchBatch, "compact"),
    (TorchBatch, "rest"),
    (SvfModel, "logits_at"),
    (SvfModel, "logits"),
    (SvfModel, "read"),
    (batch, "lay_out"),
    (batch, "completion_logprobs"),
    (batch, "mean_hidden"),
    (batch, "sample"),
    (SlotCache, "prefill"),
    (SlotCache, "extend"),
    (SlotCache, "decode"),
    (SlotCache, "copy"),
    (SlotCache, "take"),
    (SlotCache, "move"),
    (SlotCache, "update"),
    (TextStream, "push"),
    (TextStream, "flush"),
    (SequenceState, "push"),
    (SequenceState, "fail"),
    (SinglePass, "finish"),
    (TorchEngine, "_deliver"),
    (TorchEngine, "_fail_step"),
    (TorchEngine, "_end_aborted"),
    (asyncio.BaseEventLoop, "run_in_executor"),
]
"""What the loop of TorchEngine calls, directly or in a step."""

FAKE_CALLS: list[tuple[object, str]] = [
    (FakeTable, "pin"),
    (FakeTable, "unpin"),
    (FakeTable, "content"),
    (FakeAnswer, "take"),
    (FakeModel, "log_probs"),
    (FakeEngine, "_admit"),
]

WHEN = {"the first call": range(1), "the third call": range(2, 3), "every call": range(10**9)}


def _cases(calls: list[tuple[object, str]]) -> list[Any]:
    """Each call in each case. Only ``fail`` never breaks for ever: through it a request hears of errors."""
    return [
        pytest.param(owner, name, when, id=f"{getattr(owner, '__name__', '')}.{name} {when}")
        for owner, name in calls
        for when in WHEN
        if (name, when) != ("fail", "every call")
    ]


class Broken:
    """A function that raises in some of its calls."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, raising: range) -> None:
        original = getattr(owner, name)
        self.calls = 0

        def breaking(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 in raising:
                raise RuntimeError(f"{name} broke")
            return original(*args, **options)

        patch.setattr(owner, name, breaking)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(supervise, "_LONGEST_PAUSE", 0.01)


async def _end(work: Any) -> object:
    """The outcome of a request, which must not wait for ever."""
    try:
        return await asyncio.wait_for(work, SECONDS)
    except (TimeoutError, AssertionError):
        raise
    except Exception as error:
        return error


async def _crowd(engine: Engine, prompts: list[tuple[int, ...]], zs: list[str]) -> list[object]:
    """More requests than slots, under more z than rows: streams, stops, several answers, an abort, scores, states."""
    sampling = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    requests = [
        GenerationRequest(
            prompt, replace(sampling, max_tokens=3 + place, stop=("~",) * (place % 2)), z, stream=place < 3
        )
        for place, (prompt, z) in enumerate(zip(prompts * 2, zs * 3, strict=False))
    ]
    several = [
        GenerationRequest(prompts[1], replace(sampling, temperature=1.0, n=n, max_tokens=4 + n, seed=n), zs[1])
        for n in (2, 5)
    ]
    aborted = GenerationRequest(prompts[0], replace(sampling, max_tokens=50), zs[0], stream=True)

    async def abort() -> list[Completion]:
        stream = engine.generate(aborted)
        async for _ in stream:
            await engine.abort(aborted.request_id)
        raise AssertionError("an aborted request went on to its end")

    scores = [engine.score_choices(ChoicesRequest(prompts[0], (prompts[1], prompts[2]), z)) for z in zs]
    states = [engine.hidden_state(HiddenRequest(prompt, zs[0])) for prompt in prompts]
    answers = [collect(engine, request) for request in requests + several]
    return list(await asyncio.gather(*(_end(work) for work in [*answers[:3], abort(), *scores, *states, *answers[3:]])))


async def _shows_or_answers(engine: Engine, request: GenerationRequest, expected: Completion) -> None:
    """The next requests are answered, or end with errors until the health check says why."""
    for attempt in range(10):
        outcome = await _end(run(engine, replace(request, request_id=f"next-{attempt}")))
        if outcome == expected:
            await engine.check_health()
            return
        assert isinstance(outcome, Exception), outcome
        sick = await _end(engine.check_health())
        if sick is not None:
            assert "broke" in str(sick)
            return
    raise AssertionError("no request is answered, and the engine calls itself healthy")


@pytest.fixture
def prompts(tiny_model: SvfModel) -> list[tuple[int, ...]]:
    texts = ("flip bca", "reverse hello", "sort ab", "add 3 4")
    return [tuple(tiny_model.base.tokenizer(text)["input_ids"]) for text in texts]


@pytest.mark.parametrize(("owner", "name", "when"), _cases(CALLS))
async def test_every_request_of_torch_engine_ends(
    tiny_model: SvfModel,
    make_z: Callable[..., ZVector],
    monkeypatch: pytest.MonkeyPatch,
    prompts: list[tuple[int, ...]],
    owner: object,
    name: str,
    when: str,
) -> None:
    monkeypatch.setattr(engine_module, "piece_tokens", lambda model: 6)
    engine = TorchEngine(tiny_model, EngineSpec(slots=3, z_rows=3))
    zs = [await engine.put_z(make_z(seed)) for seed in range(3)]
    request = greedy(prompts[2], zs[1])
    expected = await run(engine, request)
    with pytest.MonkeyPatch.context() as patch:
        broken = Broken(patch, owner, name, WHEN[when])
        outcomes = await _crowd(engine, prompts, [*zs, BASE_Z])
        assert all(isinstance(outcome, list | tuple | ZfleetError) for outcome in outcomes), outcomes
        await _shows_or_answers(engine, request, expected)
    assert broken.calls or name == "_fail_step"
    await asyncio.wait_for(engine.close(), SECONDS)


@pytest.mark.parametrize(("owner", "name", "when"), _cases(FAKE_CALLS))
async def test_every_request_of_fake_engine_ends(owner: object, name: str, when: str) -> None:
    engine = FakeEngine(slots=3, z_rows=3)
    zs = [await engine.put_z(fake_z(seed)) for seed in range(3)]
    prompts = [fake_tokens(text) for text in ("abc", "hello", "a", "one two")]
    request = greedy(prompts[2], zs[1])
    expected = await run(engine, request)
    with pytest.MonkeyPatch.context() as patch:
        broken = Broken(patch, owner, name, WHEN[when])
        await _crowd(engine, prompts, [*zs, BASE_Z])
        await _shows_or_answers(engine, request, expected)
    assert broken.calls
    await asyncio.wait_for(engine.close(), SECONDS)


async def test_a_script_that_fails_ends_its_request_alone() -> None:
    def script(prompt: str, z: str) -> str | None:
        if prompt == "bad":
            raise KeyError("no such answer")
        return prompt

    engine = FakeEngine(script)
    good, bad = (GenerationRequest(text, SamplingParams(temperature=0)) for text in ("good", "bad"))
    answer, error = await asyncio.gather(run(engine, good), run(engine, bad), return_exceptions=True)
    assert isinstance(answer, Completion)
    assert answer.text == "good"
    assert isinstance(error, EngineError)
    assert "no such answer" in str(error)
    await engine.check_health()
    await engine.close()


async def test_a_loop_that_was_cancelled_ends_its_requests_and_starts_again(
    tiny_model: SvfModel, prompts: list[tuple[int, ...]]
) -> None:
    engine = TorchEngine(tiny_model, EngineSpec(slots=1))
    working = [asyncio.create_task(run(engine, greedy(prompts[0], max_tokens=100))) for _ in range(2)]
    while not (await engine.stats()).running:
        await asyncio.sleep(0)
    assert engine._loop._task is not None
    engine._loop._task.cancel()
    for outcome in await asyncio.wait_for(asyncio.gather(*working, return_exceptions=True), SECONDS):
        assert isinstance(outcome, EngineError)
        assert "cancelled" in str(outcome)
    await engine.check_health()
    assert await run(engine, greedy(prompts[0]))
    await engine.close()


async def test_a_step_that_hangs_shows(
    tiny_model: SvfModel, prompts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(tiny_model)
    release, score = threading.Event(), TorchBatch.score

    def hang(*args: Any) -> Any:
        release.wait(SECONDS)
        return score(*args)

    monkeypatch.setattr(TorchBatch, "score", hang)
    monkeypatch.setattr(supervise, "HANG_SECONDS", 0.05)
    waiting = asyncio.create_task(engine.score(ScoreRequest(prompts[0], prompts[1])))
    await asyncio.sleep(0.2)
    with pytest.raises(EngineError, match="has waited 0 s for one step"):
        await engine.check_health()
    release.set()
    assert await asyncio.wait_for(waiting, SECONDS)
    await engine.check_health()
    await engine.close()


async def test_a_sequence_that_cannot_begin_leaves_its_z_unused(
    tiny_model: SvfModel,
    make_z: Callable[..., ZVector],
    prompts: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = TorchEngine(tiny_model)
    z = await engine.put_z(make_z(1))
    Broken(monkeypatch, sequence, "TextStream", range(1))
    with pytest.raises(RuntimeError, match="broke"):
        await run(engine, greedy(prompts[0], z))
    await engine.drop_z(z)
    assert (await engine.stats()).resident_z == 0
    assert z not in engine._table.values
    await engine.close()
