"""A base, tasks in files, and a registry with experts, for evaluations that are checked and not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import parse_spec
from zfleet.config.specs import BaseSpec
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_jobs.evaluate.preparing import Ready, get_ready
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance


@dataclass(frozen=True)
class Project:
    """What an evaluation names.

    Attributes:
        folder: Everything is in here.
        base: The base.
        factors: Its factors.
        registry: With the experts `flip` and `turn`, each trained on the task of its name.
    """

    folder: Path
    base: BaseBundle
    factors: Factors
    registry: ExpertRegistry

    def task(self, name: str, **values: Any) -> dict[str, Any]:
        """The spec of a task whose prompts have its name for a verb."""
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            rows = [{"prompt": f"{name} {place}", "answer": str(place), "kind": name} for place in range(100)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"jsonl": str(path), "template": "{prompt}", "max_tokens": 4, "test_fraction": 0.3, **values}

    def spec(self, **values: Any) -> EvaluateSpec:
        """Make the spec of an evaluation of two tasks and two experts."""
        data = {
            "name": "small",
            "base": {"model": str(self.base.model)},
            "tasks": {name: self.task(name) for name in ("flip", "turn")},
            "experts": ["flip", "turn"],
            "shots": [3],
            "draws": [0, 1],
            "selection_samples": 5,
            "eval_samples": 8,
            "engine": {"kind": "torch", "slots": 16},
            "storage": str(self.folder / "runs"),
            "registry": f"sqlite:///{self.folder}/registry/mlflow.db",
        }
        return parse_spec(data | values, EvaluateSpec)

    def ready(self, **values: Any) -> Ready:
        """Check an evaluation and get it ready."""
        return get_ready(self.spec(**values), self.registry)

    def register(self, name: str, z: ZVector, task: str = "", base_name: str | None = None) -> ExpertVersion:
        """Register an expert."""
        return self.registry.register(name, z, Provenance.of(z, task=task), base_name=base_name or self.base.name)


@pytest.fixture(scope="module")
def make_project(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Project]]:
    """``make_project()``: a project of its own, on one base whose factors are computed once."""
    patch = pytest.MonkeyPatch()
    # Initialised once, because that takes seconds, and copied for each project.
    fresh = tmp_path_factory.mktemp("fresh")
    ExpertRegistry(root=fresh)
    patch.setenv("ZFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))
    base = pack_base(BaseSpec(model=str(tiny_folder)))
    factors = base.factor_folder().load()

    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        (folder / "registry").mkdir()
        shutil.copy(fresh / "mlflow.db", folder / "registry")
        registry = ExpertRegistry(f"sqlite:///{folder}/registry/mlflow.db", folder / "registry")
        project = Project(folder, base, factors, registry)
        for seed, name in enumerate(("flip", "turn")):
            project.register(name, random_z(factors, seed), name)
        return project

    yield make
    patch.undo()


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Project]) -> Project:
    """A project that no test changes in a way that others see."""
    return make_project()
