"""Mixture searches as real Ray Tune runs on a tiny base.

What a searcher offers and takes is in tests/unit/jobs. Here are real actors, because Tune decides when they start and
end, which are used again, and what is stored on the way; all runs share one cluster and have few actors.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ray.util import placement_group, remove_placement_group

from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.config.task_specs import TaskSpec
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
from zfleet_jobs.code_version import code_version
from zfleet_jobs.search import mixtures
from zfleet_jobs.search import run as search_run
from zfleet_jobs.search.mixtures import FoundMixture, search_mixtures
from zfleet_jobs.search.problem import SearchProblem, SearchSettings, shots_of
from zfleet_jobs.search.run import run_search
from zfleet_jobs.search.searcher import ChunkSearcher
from zfleet_registry.provenance import Provenance
from zfleet_registry.registry import ExpertRegistry

# Half of the test cluster's CPUs each: two actors. Chunks of four candidates and of three.
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
    words = ("reverse abc", "sort cab", "add 1 2", "flip xy", "order zya", "turn ab")
    samples = tuple(Sample(f"vowels/{i}", word, word.split()[1][::-1]) for i, word in enumerate(words))
    return Task("vowels", samples, (), PromptTemplate(), reward, 4)


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
    return [SearchProblem(name, experts, shots_of(_task(VOWELS), 4, seed)) for seed, name in enumerate("ab")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``found`` keeps its run."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(shipped: tuple[ShippedBase, SvfModel], problems: list[SearchProblem], runs: Path) -> list[FoundMixture]:
    """Both, in one run."""
    return search_mixtures(shipped[0], problems, SETTINGS, runs)


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was started for a search that finished before")


def test_several_searches_share_one_run_and_its_actors(found: list[FoundMixture], experts: dict[str, ZVector]) -> None:
    assert [one.name for one in found] == ["a", "b"]
    for one in found:
        assert [(trial.generation, trial.chunk) for trial in one.trials] == [(g, c) for g in range(3) for c in range(2)]
        assert [trial.candidates for trial in one.trials] == [4, 3] * 3
        # On four shots: one engine batch, each candidate on a z of its own.
        assert [trial.batch_rows for trial in one.trials] == [16, 12] * 3
        assert [trial.distinct_z for trial in one.trials] == [4, 3] * 3
        assert one.z.digest == mix(list(experts.values()), list(one.alphas.values())).digest
        assert one.score.accuracy >= max(one.base.accuracy, *(s.accuracy for s in one.singles.values()))
        assert one.history[-1].best == one.score.accuracy
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
    again = search_mixtures(shipped[0], problems, SETTINGS, runs)
    for before, after in zip(found, again, strict=True):
        assert before.seconds > 0
        assert after == replace(before, seconds=0.0, z=after.z)
        assert after.z.digest == before.z.digest
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
        assert all(12 <= trial.batch_rows <= 32 for trial in one.trials)
    assert len({trial.actor for one in pooled for trial in one.trials}) == 2, "the pool's member has its own share"
    (stats,) = left
    assert (stats.running, stats.waiting, stats.known_z) == (0, 0, 0), "trials left something in the pool"


def test_interrupted_it_resumes_to_the_same_result(
    shipped: tuple[ShippedBase, SvfModel],
    problems: list[SearchProblem],
    found: list[FoundMixture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = ChunkSearcher.on_trial_result

    def interrupted(self: ChunkSearcher, trial_id: str, result: dict[str, Any]) -> None:
        plain(self, trial_id, result)
        if (result["generation"], result["chunk"]) == (1, 0):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ChunkSearcher, "on_trial_result", interrupted)
    obeys = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search_mixtures(shipped[0], problems[:1], ONE_ACTOR, tmp_path)
    assert signal.getsignal(signal.SIGINT) is obeys
    monkeypatch.setattr(ChunkSearcher, "on_trial_result", plain)
    (resumed,) = search_mixtures(shipped[0], problems[:1], ONE_ACTOR, tmp_path)
    assert (resumed.z.digest, resumed.history) == (found[0].z.digest, found[0].history)
    # Trials of before the interruption were kept, on actors that are gone.
    assert signal.getsignal(signal.SIGINT) is obeys, "Ray Tune keeps Ctrl-C after its end"
    assert len(resumed.actors) == 2
    assert [trial.batch_rows for trial in resumed.trials] == [16, 12] * 3, "each reports its own batch"
    assert not {resumed.trials[0].actor} & {trial.actor for trial in resumed.trials[4:]}


def test_a_reward_that_raises_stops_the_search_with_its_own_error(
    shipped: tuple[ShippedBase, SvfModel], experts: dict[str, ZVector], tmp_path: Path
) -> None:
    problem = SearchProblem("exam", experts, shots_of(_task(PythonReward("rewards:raises", raises)), 4, 0))
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


def test_the_winner_is_registered_with_its_parents(
    shipped: tuple[ShippedBase, SvfModel],
    experts: dict[str, ZVector],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = ExpertRegistry()
    for name, z in experts.items():
        registry.register(name, z, Provenance.of(z), base_name="tiny")
    rows = [{"prompt": f"flip {word}", "answer": word[::-1]} for word in ("abc", "xyz", "ab", "cd", "efg", "hi", "jk")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = SearchSpec(
        base=BaseSpec(model=str(tiny_folder)),
        experts=("one", "two/1"),
        task=TaskSpec(jsonl="rows.jsonl", max_tokens=4),
        name="exam",
        shots=3,
        population=6,
        generations=2,
        per_layer=True,
        resources=ONE_ACTOR.resources,
    )
    result = run_search(spec)
    assert result.reference == "exam/1"
    assert list(result.alphas) == ["one/1", "two/1"]
    assert result.trials == 4
    assert result.batch_rows == (9,) * 4
    found = registry.resolve("exam@champion", shipped[0].slug)
    assert found.reference == result.reference
    assert found.z_digest == result.z_digest == registry.load(found).digest
    assert [parent.z_digest for parent in found.provenance.parents] == [z.digest for z in experts.values()]
    alphas = {parent.reference: parent.alpha for parent in found.provenance.parents}
    assert alphas == result.alphas
    assert all(isinstance(alpha, tuple) and len(alpha) == 2 for alpha in alphas.values())
    assert len(registry.curve(found.run_id, "best")) == 2
    assert found.provenance.code_version == code_version()
    # Again: no search, no cluster, no second version; and an alias that was moved stays where it is.
    registry.drop_alias(found, "champion")
    monkeypatch.setattr(mixtures, "run_tune", _refuse)
    monkeypatch.setattr(search_run, "cluster", _refuse)
    assert run_search(spec) == replace(result, seconds=0.0)
    assert [(v.version, v.aliases) for v in registry.list(shipped[0].slug) if v.name == "exam"] == [(1, ())]
