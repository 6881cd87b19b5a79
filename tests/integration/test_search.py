"""Mixture searches as real Ray Tune runs on a tiny base.

What a searcher offers and takes is in tests/unit/jobs. Here are real actors, because Tune decides when they start and
end, which are used again, and what is stored on the way; all runs share one cluster and have few actors.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.util import placement_group, remove_placement_group

from zfleet.adapt.document import DispatcherDocument, StepDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.engine.contract import EngineStats
from zfleet.errors import JobError, RewardError
from zfleet.models.bundle import pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.python import PythonReward
from zfleet.rewards.text import Regex
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Reward, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.parity import random_z
from zfleet_cluster.capacity import actors_that_fit
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_jobs.search import mixtures
from zfleet_jobs.search.mixtures import FoundMixture, search_mixtures
from zfleet_jobs.search.prior import Prior
from zfleet_jobs.search.problem import SearchProblem, drawn
from zfleet_jobs.search.searcher import ChunkSearcher
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.search.study import STUDY

# Half of the test cluster's CPUs each: two actors. A population is two chunks of at most four candidates.
SETTINGS = SearchSettings(
    population=7, generations=3, engine=EngineSpec(slots=32, z_rows=16), resources=ResourceSpec(cpus=4)
)
ONE_ACTOR = replace(SETTINGS, resources=ResourceSpec(cpus=8))


VOWELS = Regex(r"^\s*[aeiou02468]")
"""A reward that a random base gets right sometimes, so that candidates differ."""


def raises(completion: str, sample: Sample) -> float:
    """A reward function with a mistake in it."""
    raise KeyError("colour")


def _task(reward: Reward) -> Task:
    words = ("reverse abc", "sort cab", "add 1 2", "flip xy", "order zya", "turn ab", "sort db", "flip ace", "add 3 1")
    samples = [Sample(f"vowels/{i}", word, word.split()[1][::-1]) for i, word in enumerate(words)]
    return Task("vowels", samples[:6], samples[6:], PromptTemplate(), reward, 4)


def _problem(name: str, experts: Mapping[str, ZVector], reward: Reward = VOWELS, seed: int = 0) -> SearchProblem:
    """A search on four shots; two prompts are for the selection, three for the test."""
    return SearchProblem(name, experts, *drawn(_task(reward), 4, 2, seed))


@pytest.fixture(scope="module")
def shipped(
    ray_cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ShippedBase, SvfModel]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))
        bundle = pack_base(BaseSpec(model=str(tiny_folder)))
        yield ship(bundle), bundle.open()


@pytest.fixture(scope="module")
def experts(shipped: tuple[ShippedBase, SvfModel]) -> dict[str, ZVector]:
    """Two random z on the factors that were shipped."""
    return {name: random_z(shipped[1].factors, seed) for seed, name in enumerate(("one", "two"))}


@pytest.fixture(scope="module")
def problems(experts: dict[str, ZVector]) -> list[SearchProblem]:
    """Two searches on different shots."""
    return [_problem(name, experts, seed=seed) for seed, name in enumerate("ab")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``found`` keeps its run."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(shipped: tuple[ShippedBase, SvfModel], problems: list[SearchProblem], runs: Path) -> list[FoundMixture]:
    """Both, in one run."""
    return search_mixtures(shipped[0], problems, SETTINGS, runs)


def _tried(one: FoundMixture) -> list[object]:
    return [(each.generation, each.point.tolist(), each.score, each.shots) for each in one.tried]


def _check_trials(one: FoundMixture, experts: int) -> None:
    """Each round is two chunks, or as many as it has candidates; a chunk is one batch, each candidate on its own z."""
    rounds = [[trial for trial in one.trials if trial.round == number] for number in range(one.trials[-1].round + 1)]
    stages = [{(trial.stage, trial.generation) for trial in trials} for trials in rounds]
    # A round may be added for the centre that the method has come to.
    added = len(rounds) - 6
    assert added in (0, 1)
    populations = [("population", number) for number in (0, 1, 2, *[2] * added)]
    assert stages == [{stage} for stage in (("known", 0), *populations, ("final", 2), ("test", 2))]
    for trials in rounds:
        sizes = [trial.candidates for trial in trials]
        assert [trial.chunk for trial in trials] == list(range(min(2, sum(sizes))))
        assert max(sizes) - min(sizes) <= 1
    assert sum(trial.candidates for trial in rounds[0]) == 1 + experts
    samples = {"known": 4, "population": 4, "final": 2, "test": 3}
    for trial in one.trials:
        assert trial.batch_rows == trial.answers == samples[trial.stage] * trial.candidates
        assert trial.distinct_z == trial.candidates
    assert one.evaluations == sum(trial.answers for trial in one.trials if trial.stage != "test")


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was started for a search that finished before")


def test_several_searches_share_one_run_and_its_actors(found: list[FoundMixture], experts: dict[str, ZVector]) -> None:
    assert [one.name for one in found] == ["a", "b"]
    for one in found:
        _check_trials(one, len(experts))
        assert one.z.digest == mix(list(experts.values()), list(one.alphas.values())).digest
        assert one.searched_best >= max(one.score.value, one.history[-1].best)
        # The winner is reported beside the base and the best single expert; its own is an estimate, and no maximum.
        assert set(one.selection) == {"winner", "base", "best_single"}
        assert all(0 <= score.value <= 1 for score in one.selection.values())
        assert {name: len(right) for name, right in one.test.items()} == {"winner": 3, "base": 3, "best_single": 3}
        assert {candidate.shots for candidate in one.tried} == {4}
    actors = {trial.actor for one in found for trial in one.trials}
    assert len(actors) == 2
    opened = [trial for one in found for trial in one.trials if trial.opened_seconds > 0]
    assert len(opened) == len(actors), "an actor was started again at a barrier"


def test_a_finished_search_is_not_run_again(
    shipped: tuple[ShippedBase, SvfModel],
    problems: list[SearchProblem],
    found: list[FoundMixture],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mixtures, "run_tune", _refuse)
    # As if the call that finished them could not write the study.
    (folder,) = runs.iterdir()
    (folder / STUDY).unlink()
    again = search_mixtures(shipped[0], problems, SETTINGS, runs)
    assert len(optuna.get_all_study_summaries(f"sqlite:///{folder / STUDY}")) == 2
    for before, after in zip(found, again, strict=True):
        assert before.seconds > 0
        assert after == replace(before, seconds=0.0, z=after.z, tried=after.tried)
        assert after.z.digest == before.z.digest
        assert _tried(after) == _tried(before)
    with pytest.raises(AssertionError, match="was started"):
        search_mixtures(shipped[0], problems, replace(SETTINGS, seed=1), runs)


def test_actors_that_share_a_pool_find_the_same(
    shipped: tuple[ShippedBase, SvfModel],
    problems: list[SearchProblem],
    found: list[FoundMixture],
    tmp_path: Path,
    one_replica: Callable[[ModuleType], list[EngineStats]],
) -> None:
    left = one_replica(mixtures)
    settings = replace(SETTINGS, resources=ResourceSpec(cpus=2.5))
    pooled = search_mixtures(shipped[0], problems, settings, tmp_path)
    for one, alone in zip(pooled, found, strict=True):
        assert (one.z.digest, one.history) == (alone.z.digest, alone.history)
        assert one.singles == {name: pytest.approx(score) for name, score in alone.singles.items()}
        assert _tried(one) == _tried(alone)
        assert all(trial.answers <= trial.batch_rows <= 32 for trial in one.trials)
    assert len({trial.actor for one in pooled for trial in one.trials}) == 2, "the pool's member has its own share"
    (stats,) = left
    assert (stats.running, stats.waiting, stats.known_z) == (0, 0, 0), "trials left something in the pool"


def test_every_candidate_is_a_trial_of_the_searchs_study(found: list[FoundMixture], runs: Path) -> None:
    (folder,) = runs.iterdir()
    storage = f"sqlite:///{folder / STUDY}"
    summaries = optuna.get_all_study_summaries(storage)
    assert sorted(one.study_name for one in summaries) == [f"{name}-{folder.name[-12:]}" for name in "ab"]
    for one in found:
        study = optuna.load_study(study_name=f"{one.name}-{folder.name[-12:]}", storage=storage)
        trials = study.get_trials()
        assert [list(trial.params.values()) for trial in trials] == [each.point.tolist() for each in one.tried]
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        assert study.best_value == one.searched_best


def test_a_race_finds_its_winner_with_fewer_answers(
    shipped: tuple[ShippedBase, SvfModel], problems: list[SearchProblem], found: list[FoundMixture], tmp_path: Path
) -> None:
    (raced,) = search_mixtures(shipped[0], problems[:1], replace(ONE_ACTOR, population=12, block=1), tmp_path)
    assert {candidate.shots for candidate in raced.tried} > {4}
    assert raced.evaluations < 4 * len(raced.tried)
    assert [one.best for one in raced.history] == sorted(one.best for one in raced.history)
    assert raced.searched_best >= max(score.value for score in (raced.base, *raced.singles.values()))
    assert {trial.stage for trial in raced.trials} == {"known", "population", "final", "test"}


def test_a_search_tries_first_what_a_dispatcher_decides(
    shipped: tuple[ShippedBase, SvfModel],
    problems: list[SearchProblem],
    experts: dict[str, ZVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = experts["one"]
    document = DispatcherDocument(
        base=one.base,
        factors=one.factors,
        experts={name: z.digest for name, z in experts.items()},
        tasks={"vowels": {"one": 0.25, "two": 0.5}},
        steps=(StepDocument(kind="few_shot"),),
    )
    problem = replace(problems[0], prior=Prior("router/1", StoredDispatcher(document), (one,)))
    settings = replace(ONE_ACTOR, population=4, generations=1)
    (found,) = search_mixtures(shipped[0], [problem], settings, tmp_path)
    stages = list(dict.fromkeys((trial.round, trial.stage) for trial in found.trials))
    assert stages[:4] == [(0, "known"), (1, "prior"), (2, "known"), (3, "population")]
    # Beside the base and both experts.
    assert [(each.generation, each.point.tolist()) for each in found.tried][3] == (-1, [0.25, 0.5])
    # The stored answers lead to the same outcome, and no dispatcher is asked again.
    monkeypatch.setattr(mixtures, "run_tune", _refuse)
    (again,) = search_mixtures(shipped[0], [problem], settings, tmp_path)
    assert (again.z.digest, again.history) == (found.z.digest, found.history)


def test_interrupted_it_resumes_to_the_same_result(
    shipped: tuple[ShippedBase, SvfModel],
    problems: list[SearchProblem],
    found: list[FoundMixture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = ChunkSearcher.on_trial_result

    def interrupted(self: ChunkSearcher, trial_id: str, result: dict[str, Any]) -> None:
        plain(self, trial_id, result)
        if (result["stage"], result["generation"], result["chunk"]) == ("population", 1, 0):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ChunkSearcher, "on_trial_result", interrupted)
    obeys = signal.getsignal(signal.SIGINT)
    nowhere = replace(ONE_ACTOR, study=f"sqlite:///{tmp_path}/no/such/folder/study.db")
    with pytest.raises(KeyboardInterrupt):
        search_mixtures(shipped[0], problems[:1], nowhere, tmp_path)
    assert "the study cannot be written" in caplog.text, "the study did not fail, so that the test cannot either"
    assert signal.getsignal(signal.SIGINT) is obeys
    monkeypatch.setattr(ChunkSearcher, "on_trial_result", plain)
    (resumed,) = search_mixtures(shipped[0], problems[:1], ONE_ACTOR, tmp_path)
    assert (resumed.z.digest, resumed.history) == (found[0].z.digest, found[0].history)
    # Trials of before the interruption were kept, on actors that are gone.
    assert signal.getsignal(signal.SIGINT) is obeys, "Ray Tune keeps Ctrl-C after its end"
    assert len(resumed.actors) == 2
    _check_trials(resumed, 2)
    assert not {resumed.trials[0].actor} & {trial.actor for trial in resumed.trials if trial.round > 2}


def test_a_reward_that_raises_stops_the_search_with_its_own_error(
    shipped: tuple[ShippedBase, SvfModel], experts: dict[str, ZVector], tmp_path: Path
) -> None:
    problem = _problem("exam", experts, PythonReward("rewards:raises", raises))
    with pytest.raises(RewardError, match=r"reward rewards:raises on sample vowels/\d .* raised KeyError"):
        search_mixtures(shipped[0], [problem], ONE_ACTOR, tmp_path)


def test_short_of_cpus_it_says_so_instead_of_hanging(ray_cluster: None) -> None:
    with pytest.raises(JobError, match="needs 1000 CPU, the cluster has 8 CPU"):
        actors_that_fit(ResourceSpec(cpus=1000), 2)
    assert actors_that_fit(ResourceSpec(cpus=4), 5) == 2
    group = placement_group([{"CPU": 7}])
    try:
        assert group.wait(10)
        assert actors_that_fit(ResourceSpec(cpus=1), 2, wait_seconds=1) == 1
        with pytest.raises(JobError, match=r"needs 3 CPU, the cluster has 8 CPU, free are 1 CPU"):
            actors_that_fit(ResourceSpec(cpus=3), 2, wait_seconds=1)
    finally:
        remove_placement_group(group)
