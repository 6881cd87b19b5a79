"""What a candidate's answers are worth, shot by shot, on a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from zfleet.config.search import SpaceSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import Chunk, GenerationRequest, SamplingParams, ScoreRequest
from zfleet.errors import CannotTell, NotThisTask, RewardError
from zfleet.rewards.weighted import Part, Weighted
from zfleet.search.objective import OWN_LOG_LIKELIHOOD, Objective
from zfleet.svf.mixture import mix
from zfleet.tasks.task import Grade, Reward, Sample, Task, verdict
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.settings import SearchSettings

ONE, TWO = fake_z(1), fake_z(2)
BOTH = mix([ONE, TWO], [1.0, 0.5]).digest
ALL = (0, 1, 2, 3)
PLAIN = SearchSettings()


@dataclass(frozen=True)
class Same:
    """Right when the completion is the answer."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return verdict(completion == sample.answer, completion, "")


@dataclass(frozen=True)
class Short:
    """Worth less with each character."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return Grade(-len(completion) / 10)


@dataclass(frozen=True)
class OfYes:
    """Right when the completion is the answer, and of any other it cannot tell."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        if completion != sample.answer:
            raise CannotTell(f"sample {sample.id}: cannot tell")
        return verdict(True, completion, "")


@dataclass(frozen=True)
class NotThis:
    """Grades no sample."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        raise NotThisTask("none of its task's")


class Tokenizer:
    """The fake engine's: a character a token."""

    bos_token_id = None
    bos_token = None
    eos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(fake_tokens(text))}


class Heard(FakeEngine):
    """Keeps the requests that it answered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heard: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.heard.append(request)
        async for chunk in super().generate(request):
            yield chunk


TOKENIZER: Any = Tokenizer()
SUM = Weighted((Part("same", 1.0, Same()), Part("short", 0.5, Short())))


def _problem(answer: str | None = None, reward: Reward = Same(), **experts: Any) -> SearchProblem:
    samples = [Sample(f"s{i}", f"ask {i}", f"yes{i}" if answer is None else answer) for i in range(8)]
    task = Task("task", samples[:4], samples[6:], PromptTemplate("{prompt}"), reward, 8)
    return SearchProblem("exam", experts or {"one": ONE, "two": TWO}, task, samples[4:6])


def _searching_for(*targets: Mapping[str, float], tie: str | None = None, **settings: Any) -> SearchSettings:
    return SearchSettings(objective=Objective(targets or ({"accuracy": 1.0},), tie), **settings)


@pytest.fixture
def engine() -> Iterator[SyncEngine]:
    # The mixture of both answers all but one prompt right, every other z answers "no".
    def script(prompt: str, z: str) -> str:
        return f"yes{prompt.removeprefix('ask ')}" if z == BOTH and prompt != "ask 3" else "no"

    with SyncEngine(FakeEngine(script, slots=64, z_rows=16)) as running:
        yield running


@pytest.fixture
def free() -> Iterator[SyncEngine]:
    """An engine whose answers are sampled."""
    with SyncEngine(Heard(slots=64, z_rows=16)) as running:
        yield running


def _measure(
    engine: SyncEngine,
    problem: SearchProblem,
    points: Sequence[Sequence[float]],
    settings: SearchSettings = PLAIN,
    samples: Sequence[Sequence[int]] | None = None,
) -> list[list[list[float]]]:
    return measure_candidates(engine, TOKENIZER, problem, settings, points, samples or [ALL] * len(points))


def _column(measured: list[list[list[float]]], place: int) -> list[list[float]]:
    return [[row[place] for row in rows] for rows in measured]


def test_each_shot_has_its_accuracy_and_the_likelihood_of_its_answer(engine: SyncEngine) -> None:
    measured = _measure(engine, _problem(), [[0.0, 0.0], [1.0, 0.5], [1.0, 0.0], [0.0, 0.0]])
    assert _column(measured, 0) == [[0] * 4, [1, 1, 1, 0], [0] * 4, [0] * 4]
    likely = _column(measured, 1)
    assert min(likely[1][:3]) > max(likely[0] + likely[2])
    assert likely[0] == likely[3]
    # All candidates and shots were in one batch, each candidate on its own z (two are equal), and all z are gone.
    stats = engine.stats()
    assert (stats.peak_batch, stats.peak_distinct_z, stats.known_z) == (16, 3, 0)


def test_each_candidate_answers_its_own_samples_of_all_three_splits(engine: SyncEngine) -> None:
    problem, points = _problem(), [[1.0, 0.5], [1.0, 0.5], [0.0, 0.0]]
    ragged = _measure(engine, problem, points, samples=[(7, 3, 4), (0,), (6, 1)])
    assert [len(rows) for rows in ragged] == [3, 1, 2]
    assert _column(ragged, 0) == [[1, 0, 1], [1], [0, 0]]
    whole = _measure(engine, problem, points, samples=[range(8)] * 3)
    assert ragged == [[whole[0][7], whole[0][3], whole[0][4]], [whole[1][0]], [whole[2][6], whole[2][1]]]
    assert engine.stats().peak_batch == 24


@pytest.mark.parametrize(("most", "end"), [(5, (0,)), (4, ())])
def test_an_answer_as_long_as_the_task_allows_has_no_end(
    engine: SyncEngine, monkeypatch: pytest.MonkeyPatch, most: int, end: tuple[int, ...]
) -> None:
    asked: list[ScoreRequest] = []
    score = engine.score

    def heard(requests: list[ScoreRequest]) -> list[tuple[float, ...]]:
        asked.extend(requests)
        return score(requests)

    monkeypatch.setattr(engine, "score", heard)
    problem = _problem(one=ONE)
    _measure(engine, replace(problem, task=replace(problem.task, max_tokens=most)), [[0.0]], samples=[(0,)])
    assert [one.completion for one in asked] == [(*fake_tokens("yes0"), *end)]


def test_a_task_without_answers_has_no_likelihood(engine: SyncEngine) -> None:
    measured = _measure(engine, _problem(answer="", one=ONE), [[0.0], [1.0]])
    assert measured == [[[0.0, 0.0]] * 4] * 2


def test_an_answer_that_nobody_can_judge_is_not_known_to_be_right(engine: SyncEngine) -> None:
    settings = _searching_for({"accuracy": 1.0}, {"reward": 1.0})
    measured = _measure(engine, _problem(reward=OfYes()), [[1.0, 0.5], [0.0, 0.0]], settings)
    assert measured == [[[1, 1], [1, 1], [1, 1], [0, -1]], [[0, -1]] * 4]
    # A shot that is none of the task's is another matter: no candidate can be compared on it.
    with pytest.raises(RewardError, match=r"gives None on shot s0: .* the same shots"):
        _measure(engine, _problem(reward=NotThis()), [[1.0, 0.5]])
    assert engine.stats().known_z == 0, "what failed left its z behind"


@pytest.mark.parametrize("alphas", ["layer", "matrix"])
def test_points_give_each_layer_or_matrix_its_alpha(engine: SyncEngine, alphas: Any) -> None:
    settings = SearchSettings(space=SpaceSpec(alphas=alphas))
    measured = _measure(engine, _problem(), [[1.0, 1.0, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5]], settings)
    assert _column(measured, 0) == [[1, 1, 1, 0], [0] * 4]


def test_all_candidates_answer_a_sample_with_the_same_random_numbers(free: SyncEngine) -> None:
    settings = _searching_for(temperature=1.0)
    _measure(free, _problem(), [[0.0, 0.0], [1.0, 0.5], [0.3, 0.9]], settings, [(2, 5), (5, 2, 7), (7,)])
    assert isinstance(free.engine, Heard)
    heard = [(request.prompt, request.sampling) for request in free.engine.heard]
    seeds = {prompt: {sampling.seed for other, sampling in heard if other == prompt} for prompt, _ in heard}
    assert len(heard) == 6
    assert {sampling.temperature for _, sampling in heard} == {1.0}
    assert all(len(of_one) == 1 and None not in of_one for of_one in seeds.values())
    assert len(set.union(*seeds.values())) == 3, "another sample has other random numbers"


def test_a_candidate_answers_alike_wherever_it_is_tried(free: SyncEngine) -> None:
    settings = _searching_for(tie=OWN_LOG_LIKELIHOOD, temperature=1.0)
    problem, point = _problem(), [0.3, 0.9]
    (alone,) = _measure(free, problem, [point], settings)
    *_, among = _measure(free, problem, [[0.0, 0.0], [1.0, 0.5], point], settings)
    assert alone == among
    assert len({row[1] for row in alone}) == 4, "the answers are alike, so that the test cannot fail"


def test_parts_of_a_reward_are_metrics(engine: SyncEngine) -> None:
    settings = _searching_for({"accuracy": 1.0, "part.short": 0.5}, {"reward": 1.0})
    measured = _measure(engine, _problem(reward=SUM), [[1.0, 0.5], [0.0, 0.0]], settings)
    assert settings.objective.metrics == ("accuracy", "part.short", "reward")
    assert measured[0] == [[1, -0.4, 0.8]] * 3 + [[0, -0.2, -1.1]]
    assert measured[1] == [[0, -0.2, -1.1]] * 4
    # One part that cannot tell leaves the whole sum unjudged.
    unsure = Weighted((Part("same", 1.0, OfYes()), SUM.parts[1]))
    assert _measure(engine, _problem(reward=unsure), [[0.0, 0.0]], settings) == [[[0, -1, -1]] * 4]


def test_a_part_that_the_reward_does_not_have_is_refused(engine: SyncEngine) -> None:
    settings = _searching_for({"part.shrot": 1.0})
    with pytest.raises(RewardError, match=r"objective names part\.shrot, but the reward has the parts same, short"):
        _measure(engine, _problem(reward=SUM), [[0.0, 0.0]], settings)
    with pytest.raises(RewardError, match=r"objective names part\.shrot, but the reward has the parts none"):
        _measure(engine, _problem(), [[0.0, 0.0]], settings)


def test_the_likelihood_of_the_answer_itself_is_the_mean_of_its_tokens(free: SyncEngine) -> None:
    settings = _searching_for(tie=OWN_LOG_LIKELIHOOD, temperature=0.7)
    (rows,) = _measure(free, _problem(), [[1.0, 0.5]], settings)
    z = free.put_z(mix([ONE, TWO], [1.0, 0.5]))
    sampling = SamplingParams(temperature=0.7, max_tokens=8, logprobs=True)
    requests = [GenerationRequest(fake_tokens(f"ask {sample}"), replace(sampling, seed=sample), z) for sample in ALL]
    answers = [answer for (answer,) in free.generate(requests)]
    assert settings.objective.metrics == ("accuracy", OWN_LOG_LIKELIHOOD)
    assert [row[1] for row in rows] == pytest.approx([sum(a.logprobs) / len(a.logprobs) for a in answers])
    assert max(row[1] for row in rows) < 0


def test_what_the_objective_does_not_name_is_not_asked(free: SyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free, "score", lambda _: pytest.fail("a likelihood was asked"))
    _measure(free, _problem(), [[0.0, 0.0]], _searching_for())
    assert isinstance(free.engine, Heard)
    assert not any(request.sampling.logprobs for request in free.engine.heard)
