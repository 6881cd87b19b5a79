"""What a search is given and how candidates are scored, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from zfleet.config.load import parse_spec
from zfleet.config.specs import EngineSpec, ResourceSpec, SearchSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.errors import CannotTell, JobError, NotThisTask, RewardError, SpecError, WrongBase
from zfleet.svf.mixture import mix
from zfleet.tasks.task import Grade, Reward, Sample, Task, verdict
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_jobs.search.problem import SearchProblem, SearchSettings, problems_digest, shots_of
from zfleet_jobs.search.scoring import score_candidates

ONE, TWO = fake_z(1), fake_z(2)
BOTH = mix([ONE, TWO], [1.0, 0.5]).digest


@dataclass(frozen=True)
class Same:
    """Right when the completion is the answer."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return verdict(completion == sample.answer, completion, "")


class Tokenizer:
    """The fake engine's: a character a token."""

    bos_token_id = None
    bos_token = None
    eos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(fake_tokens(text))}


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


def _task(size: int = 4, answer: str | None = None, reward: Reward = Same()) -> Task:
    samples = tuple(Sample(f"s{i}", f"ask {i}", f"yes{i}" if answer is None else answer) for i in range(size))
    return Task("task", samples, samples, PromptTemplate("{prompt}"), reward, 8)


@pytest.fixture
def engine() -> Iterator[SyncEngine]:
    # The mixture of both answers all but one prompt right, every other z answers "no".
    def script(prompt: str, z: str) -> str:
        return f"yes{prompt.removeprefix('ask ')}" if z == BOTH and prompt != "ask 3" else "no"

    with SyncEngine(FakeEngine(script, slots=64, z_rows=16)) as running:
        yield running


def test_scores_are_accuracy_and_likelihood_of_the_answers(engine: SyncEngine) -> None:
    tokenizer: Any = Tokenizer()
    points = [[0.0, 0.0], [1.0, 0.5], [1.0, 0.0], [0.0, 0.0]]
    scores = score_candidates(engine, tokenizer, [ONE, TWO], _task(), points, None)
    assert [accuracy for accuracy, _ in scores] == [0.0, 0.75, 0.0, 0.0]
    assert scores[1][1] > max(scores[0][1], scores[2][1])
    # All candidates and shots were in one batch, each candidate on its own z (two are equal), and all z are gone.
    stats = engine.stats()
    assert (stats.peak_batch, stats.peak_distinct_z, stats.known_z) == (16, 3, 0)


def test_a_task_without_answers_has_no_likelihood(engine: SyncEngine) -> None:
    tokenizer: Any = Tokenizer()
    scores = score_candidates(engine, tokenizer, [ONE], _task(answer=""), [[0.0], [1.0]], None)
    assert scores == [(0.0, 0.0), (0.0, 0.0)]


def test_an_answer_that_nobody_can_judge_is_not_known_to_be_right(engine: SyncEngine) -> None:
    tokenizer: Any = Tokenizer()
    scores = score_candidates(engine, tokenizer, [ONE, TWO], _task(reward=OfYes()), [[1.0, 0.5], [0.0, 0.0]], None)
    assert [accuracy for accuracy, _ in scores] == [0.75, 0.0]
    # A shot that is none of the task's is another matter: no candidate can be compared on it.
    with pytest.raises(RewardError, match=r"gives None on shot s0: .* the same shots"):
        score_candidates(engine, tokenizer, [ONE, TWO], _task(reward=NotThis()), [[1.0, 0.5]], None)


def test_per_layer_points_give_each_layer_its_alpha(engine: SyncEngine) -> None:
    tokenizer: Any = Tokenizer()
    scores = score_candidates(engine, tokenizer, [ONE, TWO], _task(), [[1.0, 1.0, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5]], 2)
    assert [accuracy for accuracy, _ in scores] == [0.75, 0.0]


def test_shots_are_distinct_training_prompts_by_seed() -> None:
    task = replace(_task(6), train=tuple(_task(6).train) * 3)
    shots = shots_of(task, 4, seed=1)
    assert len({sample.prompt for sample in shots.train}) == 4
    assert shots.test == ()
    assert shots_of(task, 4, seed=1) == shots
    assert shots_of(task, 4, seed=2) != shots
    with pytest.raises(JobError, match="6 distinct training prompts, 7 shots"):
        shots_of(task, 7, seed=0)


def test_a_search_without_experts_or_shots_is_refused() -> None:
    with pytest.raises(SpecError, match="0 experts and 4 shots"):
        SearchProblem("exam", {}, _task())
    with pytest.raises(SpecError, match="1 experts and 0 shots"):
        SearchProblem("exam", {"one": ONE}, _task(0))
    with pytest.raises(WrongBase, match="different bases"):
        SearchProblem("exam", {"one": ONE, "other": fake_z(1, factors="others")}, _task())
    with pytest.raises(SpecError, match="trials_per_generation is 5"):
        SearchSettings(population=4, trials_per_generation=5)


def test_a_reward_that_skips_is_refused_for_a_search() -> None:
    def spec(on_error: str) -> dict[str, Any]:
        reward = {"kind": "python", "value": "rewards:mine", "on_error": on_error}
        return {"name": "exam", "experts": ["one"], "task": {"jsonl": "rows.jsonl", "reward": reward}}

    with pytest.raises(SpecError, match=r"task\.reward\.on_error is 'skip': .* the same shots .* write `stop`"):
        parse_spec(spec("skip"), SearchSpec)
    assert parse_spec(spec("stop"), SearchSpec).task.reward.on_error == "stop"


def test_the_digest_covers_what_decides_the_outcome_and_nothing_else() -> None:
    def digest(settings: SearchSettings, **experts: Any) -> str:
        return problems_digest({"exam": SearchProblem("exam", experts, _task())}, settings, "1")

    plain = digest(SearchSettings(), one=ONE)
    quicker = SearchSettings(engine=EngineSpec(slots=7), resources=ResourceSpec(cpus=2))
    assert digest(quicker, one=ONE) == plain
    assert digest(SearchSettings(seed=1), one=ONE) != plain
    assert digest(SearchSettings(), one=TWO) != plain
    assert digest(SearchSettings(), other=ONE) != plain
