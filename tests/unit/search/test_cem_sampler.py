"""The sampler for Optuna: Optuna's own suites, its arithmetic, and what it is used without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState, create_trial

from zfleet.search import CemSampler, cem_sampler, elites
from zfleet.search.cem_sampler import BEST, GENERATION
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.space import Space

SPACE: dict[str, BaseDistribution] = {f"alpha{i}": FloatDistribution(0.0, 1.0) for i in range(3)}


class TestOptunaSuites(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return CemSampler


class TestOptunaSuitesAfterAGeneration(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """The suites run few trials: with a population of 2 most of them are in later generations."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: CemSampler(population=2, elites=0.5, seed=0)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_finds_the_optimum_on_scales_of_every_kind(direction: Literal["minimize", "maximize"]) -> None:
    sign = 1 if direction == "minimize" else -1

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -5, 5)
        rate = trial.suggest_float("rate", 1e-6, 1, log=True)
        count = trial.suggest_int("count", 0, 20)
        step = trial.suggest_float("step", 0, 1, step=0.1)
        kind = trial.suggest_categorical("kind", ["far", "near", "further"])
        cost = (x - 1) ** 2 + np.log10(rate / 1e-3) ** 2 + ((count - 7) / 4) ** 2 + (3 * step - 1.2) ** 2
        return sign * float(cost + {"far": 1, "near": 0, "further": 2}[kind])

    study = optuna.create_study(direction=direction, sampler=CemSampler(seed=0))
    study.optimize(objective, n_trials=480)
    found = study.best_params
    assert found.pop("kind") == "near"
    assert found.pop("count") == 7
    assert found.pop("step") == pytest.approx(0.4)
    assert found.pop("x") == pytest.approx(1, abs=0.1)
    assert np.log10(found.pop("rate")) == pytest.approx(-3, abs=0.1)


def test_a_generation_follows_from_the_one_before_as_in_our_own_search() -> None:
    """Equal scores too: of those the earlier candidate is the elite."""
    search = CrossEntropy(Space(tuple(SPACE)), seed=5)
    sampler = CemSampler(seed=6)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    best = (-np.inf, np.zeros(len(SPACE)))
    for generation in range(3):
        population = search.ask()
        scores = [float(round(-4 * ((point - 0.4) ** 2).sum())) for point in population]
        search.tell(population, [(score,) for score in scores])
        for point, score in zip(population, scores, strict=True):
            params = dict(zip(SPACE, point.tolist(), strict=True))
            attributes = {GENERATION: generation}
            study.add_trial(create_trial(params=params, distributions=SPACE, value=score, system_attrs=attributes))
            best = max(best, (score, point), key=lambda pair: pair[0])
        first, *others = [study.ask(SPACE) for _ in range(8)]
        assert list(first.params.values()) == best[1].tolist()
        for trial in others:
            drawn = [_normal(6, trial.number, name) for name in SPACE]
            expected = np.clip(search.mean + search.std * drawn, 0, 1)
            assert list(trial.params.values()) == pytest.approx(expected.tolist(), abs=1e-12)
        for trial in (first, *others):
            study.tell(trial, state=TrialState.FAIL)


def _normal(seed: int, number: int, name: str) -> float:
    return float(np.random.default_rng([seed, number, *name.encode()]).normal())


def test_a_condition_fits_its_parameter_to_the_elites_that_have_it() -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("deep", [False, True]):
            return (trial.suggest_float("inside", 0, 1) - 0.3) ** 2
        return 0.1

    study = optuna.create_study(sampler=CemSampler(seed=0))
    study.optimize(objective, n_trials=256)
    assert study.best_params["inside"] == pytest.approx(0.3, abs=0.01)
    last = [trial for trial in study.trials[-32:] if "inside" in trial.params]
    assert len(last) > 25
    assert np.std([trial.params["inside"] for trial in last]) < 0.1


def test_a_parameter_that_no_elite_has_begins_at_the_middle() -> None:
    study = optuna.create_study(sampler=CemSampler(population=4, seed=0))
    for number in range(8):
        trial = study.ask()
        trial.suggest_float("x", 0, 1 if number < 4 else 100)
        study.tell(trial, number)
    # The elite of generation 0 has x in [0, 1], which says nothing of x in [0, 100]. Until a complete trial has that
    # range, Optuna takes the old one.
    wide = [study.trials[number].params["x"] for number in range(5, 8)]
    expected = [100 * np.clip(0.5 + 0.5 * _normal(0, number, "x"), 0, 1) for number in range(5, 8)]
    assert wide == pytest.approx(expected)


def test_a_category_keeps_a_share_that_the_elites_do_not_have() -> None:
    space: dict[str, BaseDistribution] = {"kind": CategoricalDistribution(["a", "b", "c"])}
    study = optuna.create_study(sampler=CemSampler(population=2, std_floor=0.3, seed=0))
    for _ in range(2):
        study.add_trial(create_trial(params={"kind": "b"}, distributions=space, value=0.0))
    drawn = [study.ask(space).params["kind"] for _ in range(601)][1:]
    shares = {kind: drawn.count(kind) / len(drawn) for kind in "abc"}
    # Within four standard deviations of a share. The first trial repeats the best.
    assert shares == pytest.approx({"a": 0.1, "b": 0.8, "c": 0.1}, abs=4 * np.sqrt(0.8 * 0.2 / 600))


def test_reseeding_samples_anew() -> None:
    def params(sampler: CemSampler) -> dict[str, float]:
        return optuna.create_study(sampler=sampler).ask(SPACE).params

    reseeded = CemSampler(seed=3)
    reseeded.reseed_rng()
    assert params(CemSampler(seed=3)) == params(CemSampler(seed=3))
    assert params(CemSampler(seed=3)) != params(CemSampler(seed=4))
    assert params(CemSampler(seed=3)) != params(reseeded)
    assert params(CemSampler()) != params(CemSampler())


@pytest.mark.parametrize(
    ("setting", "value"), [("population", 1), ("elites", 0.0), ("elites", 1.1), ("std_floor", -0.1), ("std_floor", 2.0)]
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {value}: give "):
        CemSampler(**{setting: value})  # type: ignore[arg-type]  # wrong on purpose


def test_constraints_are_said_to_have_no_effect() -> None:
    study = optuna.create_study(sampler=CemSampler())
    trial = study.ask(SPACE)
    trial.set_constraint("small", 1.0)
    with pytest.warns(UserWarning, match="constraints"):
        study.tell(trial, 0.0)


def test_its_two_files_are_a_package_of_their_own(tmp_path: Path) -> None:
    """In another process, in which zfleet cannot be imported: what OptunaHub would load."""
    package = tmp_path / "cem"
    package.mkdir()
    for module in (cem_sampler, elites):
        assert module.__file__ is not None
        shutil.copy(module.__file__, package)
    (package / "__init__.py").write_text("from .cem_sampler import CemSampler\n")
    program = """
import sys
sys.modules["zfleet"] = None
import optuna
from cem import CemSampler
study = optuna.create_study(sampler=CemSampler(population=4, seed=0))
study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=40)
print(study.trials[-1].system_attrs["cem:generation"], study.best_value < 1e-2)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "True"]


def test_the_example_of_the_docs_finds_the_optimum() -> None:
    """In another process, as a reader would run it."""
    docs = Path(__file__).parents[3] / "docs" / "optuna.md"
    example = docs.read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
    assert "'layers': 4, 'kind': 'muon'" in done.stdout


def test_the_search_is_imported_without_optuna() -> None:
    """In another process: this one has imported it."""
    check = "import sys, zfleet.search, zfleet.search.methods.cross_entropy; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_best_is_proposed_once_in_a_generation() -> None:
    study = optuna.create_study(sampler=CemSampler(population=4, seed=0))
    for number in range(4):
        study.tell(study.ask(SPACE), number)
    first = study.ask(SPACE)
    # A pruner that drops it each time must not make it come again for ever.
    study.tell(first, state=TrialState.PRUNED)
    second = study.ask(SPACE)
    assert study.trials[4].system_attrs == {GENERATION: 1, BEST: 0}
    assert first.params == study.trials[0].params
    assert second.params != first.params
