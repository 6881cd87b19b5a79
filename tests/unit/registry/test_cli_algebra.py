"""``zfleet experts mix``, ``negate``, ``scale`` and ``interpolate``: each registers what the algebra says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, Parent, Provenance

Command = Callable[..., Result]


@pytest.fixture
def command(root: Path, put: Callable[..., Any]) -> Command:
    """``command(*arguments)``, in a registry with the experts math/1 and code/1."""
    put("math", 0.25)
    put("code", -0.5)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["experts", *arguments, "--registry", f"sqlite:///{root / 'mlflow.db'}"])

    return run


@pytest.mark.parametrize(
    ("arguments", "alphas"),
    [
        (("mix", "math=0.6", "code/1=0.4"), {"math/1": 0.6, "code/1": 0.4}),
        (("mix", "math=-1.5e-1"), {"math/1": -0.15}),
        (("negate", "math"), {"math/1": -1.0}),
        (("scale", "code", "--by", "-0.5"), {"code/1": -0.5}),
        (("interpolate", "math", "code", "--at", "0.25"), {"math/1": 0.75, "code/1": 0.25}),
    ],
)
def test_a_combination_is_a_version_with_parents(
    command: Command, registry: ExpertRegistry, arguments: tuple[str, ...], alphas: dict[str, float]
) -> None:
    dry = command(*arguments, "--name", "analyst", "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    assert len(registry.list()) == 2
    done = command(*arguments, "--name", "analyst", "--json")
    assert done.exit_code == 0, done.output
    (version,) = [version for version in registry.list() if version.name == "analyst"]
    parents = {f"{one.name}/1": one for one in registry.list()}
    zs = {reference: registry.load(parents[reference]) for reference in alphas}
    assert registry.load(version).digest == mix(list(zs.values()), list(alphas.values())).digest
    assert version.provenance.kind == "mixture"
    assert version.provenance.parents == tuple(Parent(one, zs[one].digest, alpha) for one, alpha in alphas.items())
    assert json.loads(dry.stdout)["provenance"]["z_digest"] == version.z_digest
    assert json.loads(version.provenance.spec) == {arguments[0]: alphas}
    assert command(*arguments, "--name", "analyst", "--json").stdout == done.stdout, "registered twice"
    assert "analyst" in command(*arguments, "--name", "analyst", "--dry-run").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mix", "math"), "'math' has no alpha"),
        (("mix", "math=much"), "'much', which is no number"),
        (("mix", "math=nan"), "alpha is nan"),
        (("mix", "math=1e999"), "alpha is inf"),
        (("scale", "math", "--by", "inf"), "alpha is inf"),
        (("scale", "math", "--by", "1e300"), "NaN or infinite"),
        (("interpolate", "math", "code", "--at", "nan"), "alpha is nan"),
        (("mix", "math=1", "math/1=1"), "named twice"),
        (("mix", "maths=1"), "has no expert 'maths'"),
        (("mix", "../math=1"), "is no reference"),
        (("negate", "math/7"), "no version 7"),
        (("negate", "math@best"), "no alias 'best'"),
    ],
)
def test_what_makes_no_expert_is_refused(
    command: Command, registry: ExpertRegistry, arguments: tuple[str, ...], message: str
) -> None:
    refused = command(*arguments, "--name", "analyst")
    assert refused.exit_code == 1, refused.output
    assert message in refused.stderr
    assert len(registry.list()) == 2
    assert "cannot be used" in command("negate", "math", "--name", "a b").stderr


def test_experts_of_two_bases_do_not_mix(
    command: Command, registry: ExpertRegistry, make_z: Callable[..., ZVector]
) -> None:
    other = make_z(1, base="9" * 64)
    registry.register("far", other, Provenance.of(other), base_name="lab")
    refused = command("mix", "math=1", "far=1", "--name", "both")
    assert refused.exit_code == 1
    assert "mix only experts that share one base" in refused.stderr


UP = "model.layers.0.mlp.up_proj"
few = settings(max_examples=50, deadline=None, derandomize=True)
factors = st.floats(-4, 4).filter(lambda c: abs(c) > 0.1)
values = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=8)


def _z(numbers: list[float]) -> ZVector:
    return ZVector({UP: torch.tensor(numbers)}, "b", "f", "mlp")


def _near(first: ZVector, second: ZVector) -> bool:
    return torch.allclose(first.values[UP], second.values[UP], atol=1e-5, rtol=1e-5)


@few
@given(values, factors, st.floats(-2, 3))
def test_laws_of_negation_scaling_and_interpolation(numbers: list[float], c: float, t: float) -> None:
    z, other = _z(numbers), _z([0.5 - number for number in numbers])
    base = mix([z], [0.0])
    negated = mix([z], [-1.0])
    assert _near(mix([negated], [-1.0]), z), "negating twice is no identity"
    assert _near(mix([z, negated], [1.0, 1.0]), base), "an expert and its opposite are not the base"
    assert _near(mix([mix([z], [c])], [1 / c]), z)
    point = mix([z, other], [1.0 - t, t])
    assert _near(point, _z([(1 - t) * number + t * (0.5 - number) for number in numbers]))
    assert _near(mix([z, other], [1.0, 0.0]), z)
    assert _near(mix([z, other], [0.0, 1.0]), other)
    assert point.digest == mix([other, z], [t, 1.0 - t]).digest
