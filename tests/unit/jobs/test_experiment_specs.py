"""Specs of experiments: which trainings they come to, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zfleet.config.compare import AblateSpec, CompareSpec, learns_from_references
from zfleet.config.load import dump_spec, load_spec, parse_spec
from zfleet.errors import SpecError
from zfleet_jobs.compare.run import trials_of

LORA = {"adapter": "lora"}


def _compare(**values: Any) -> dict[str, Any]:
    return {
        "tasks": {"sort": {"lab": "sort"}},
        "methods": {"svf": {}, "lora": {"adapter": "lora", "learner": {"lr": 0.01}}},
        "against": "lora",
        **values,
    }


def _ablate(**values: Any) -> dict[str, Any]:
    return {"tasks": {"sort": {"lab": "sort"}}, **values}


def test_every_method_learns_every_task_with_every_seed() -> None:
    spec = parse_spec(_compare(seeds=[3, 4]), CompareSpec)
    found = [(t.method, t.task, t.seed, t.learner.lr, t.learner.seed) for t in trials_of(spec)]
    assert found == [
        ("svf", "sort", 3, 0.02, 3),
        ("svf", "sort", 4, 0.02, 4),
        ("lora", "sort", 3, 0.01, 3),
        ("lora", "sort", 4, 0.01, 4),
    ]
    assert not learns_from_references(spec)


def test_an_ablation_is_the_whole_grid() -> None:
    spec = parse_spec(_ablate(parametrisations=["sigmoid", "exp"]), AblateSpec)
    trials = trials_of(spec)
    assert len(trials) == 3 * 2 * 2 * 3
    chosen = {(t.settings.targets, t.learner.objective, t.learner.parametrisation) for t in trials}
    assert len(chosen) == 12
    assert all(t.method == f"{t.settings.targets} {t.learner.objective} {t.learner.parametrisation}" for t in trials)
    assert learns_from_references(spec)


def test_a_parametrisation_may_have_a_learning_rate_of_its_own() -> None:
    spec = parse_spec(_ablate(lr={"direct": 0.01, "exp": 0.005}, learner={"lr": 0.03}), AblateSpec)
    rates = {t.learner.parametrisation: t.learner.lr for t in trials_of(spec)}
    assert rates == {"sigmoid": 0.03, "direct": 0.01, "exp": 0.005}


def test_what_is_of_sampled_answers_does_not_hold_for_a_supervised_method() -> None:
    """It goes back to its default, and a step has as many prompts as it had samples."""
    learner = {"prompts_per_step": 16, "samples_per_prompt": 8, "estimator": "rloo", "temperature": 0.9, "kl": 0.1}
    spec = parse_spec(_ablate(learner=learner | {"kl_in": "reward"}), AblateSpec)
    found = {
        t.learner.objective: (t.learner.prompts_per_step, t.learner.samples_per_prompt, t.learner.estimator)
        for t in trials_of(spec)
    }
    assert found == {"reinforce": (16, 8, "rloo"), "supervised": (128, 1, "reinforce")}
    methods = {"lora": LORA, "few": {"learner": {"objective": "supervised", "prompts_per_step": 4}}}
    few = parse_spec(_compare(methods=methods, learner=learner), CompareSpec).learner_of
    spec_of_few = parse_spec(_compare(methods=methods, learner=learner), CompareSpec)
    assert few(spec_of_few.methods["few"], 0).prompts_per_step == 4, "what the method says itself holds"


def test_a_supervised_method_that_asks_for_samples_itself_is_refused() -> None:
    methods = {"lora": LORA, "svf": {"learner": {"objective": "supervised", "temperature": 0.5}}}
    with pytest.raises(SpecError, match="samples nothing and does not use: temperature"):
        parse_spec(_compare(methods=methods), CompareSpec)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"against": "dora"}, "against is 'dora', the methods are svf, lora"),
        ({"seeds": [1, 1]}, "seeds has a value twice"),
        ({"engine": "vllm"}, "engine.kind is 'vllm'"),
        ({"learner": {"staleness": 1}}, "staleness is 1: adapter `lora` changes the model itself"),
        ({"learner": {"seed": 7}}, "learner.seed is 7: an experiment has several seeds, write `seeds`"),
        ({"methods": {"svf": {"rank": 4}, "lora": LORA}}, "rank and alpha are for adapter `lora`"),
        ({"methods": {"svf": {"alpha": 16}, "lora": LORA}}, "rank and alpha are for adapter `lora`"),
        ({"methods": {"svf": {"learner": {"lr": "fast"}}, "lora": LORA}}, "lr"),
        ({"methods": {"svf": {"learner": {"rate": 1}}, "lora": LORA}}, "rate"),
        ({"methods": {"svf": {"learner": {"seed": 0}}, "lora": LORA}}, "learner.seed is 0"),
        (
            {"methods": {"svf": {}, "lora": {"adapter": "lora", "learner": {"parametrisation": "exp"}}}},
            "learner.parametrisation is for adapter `svf`",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(_compare(**changes), CompareSpec)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"targets": ["mlp", "mlp"]}, "targets has a value twice: ['mlp', 'mlp']"),
        ({"objectives": ["reinforce", "reinforce"]}, "objectives has a value twice"),
        ({"parametrisations": ["exp", "exp"]}, "parametrisations has a value twice"),
        (
            {"learner": {"objective": "supervised"}},
            "learner.objective is 'supervised': write it in the grid's `objectives`",
        ),
        ({"learner": {"parametrisation": "exp"}}, "learner.parametrisation is 'exp': write it in the grid's"),
        ({"base": {"targets": "mlp"}}, "base.targets is 'mlp': write it in the grid's `targets`"),
        ({"parametrisations": ["exp"], "lr": {"direct": 0.1}}, "lr has direct, but parametrisations are exp"),
        ({"lr": {"exp": 0}}, "lr.exp is 0"),
    ],
)
def test_what_an_ablation_would_ignore_is_said(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(_ablate(**changes), AblateSpec)
    assert told in caught.value.message


@pytest.mark.parametrize("given", [_compare(), _ablate(lr={"exp": 0.01})])
def test_a_resolved_spec_can_be_read_again(given: dict[str, Any], tmp_path: Path) -> None:
    kind: type[CompareSpec | AblateSpec] = CompareSpec if "methods" in given else AblateSpec
    spec = parse_spec(given, kind)
    (tmp_path / "spec.yaml").write_text(dump_spec(spec))
    assert load_spec(tmp_path / "spec.yaml", kind) == spec
