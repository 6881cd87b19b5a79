"""The lab base with experts for its skills, in a registry of the benchmark's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zfleet.adapt.contract import Decision, Dispatcher, Mixture
from zfleet.adapt.measure import decide_all
from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.learner import LearnerSpec
from zfleet.config.load import parse_spec
from zfleet.config.names import CHAMPION
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.evaluate.graded import evaluate
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.lab.skills import KINDS
from zfleet.models.svf_model import SvfModel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.weights import SvfWeights
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Sample
from zfleet_jobs.calibrate.run import CalibrateResult, run_calibrate
from zfleet_registry import ExpertRegistry, Provenance

CLASSIFIER = "kind"
_TASK = "reverse"
"""Any lab task: all have the same template, reward and length of answers."""


@dataclass(frozen=True)
class Project:
    """Experts, an engine that knows them, and a registry for dispatchers.

    Attributes:
        bundle: The lab base.
        engine: Answers, and runs first passes.
        experts: {reference in the registry: z}.
        registry: The registry.
        uri: Its URI.
    """

    bundle: BaseBundle
    engine: SyncEngine
    experts: dict[str, ZVector]
    registry: ExpertRegistry
    uri: str

    def calibrate(self, dispatcher: str, labels: Mapping[str, str], **changes: Any) -> CalibrateResult:
        """Run `zfleet calibrate`.

        Args:
            dispatcher: Its kind.
            labels: {lab task, whose prompts have its name as their label: the expert that answers them}.
            changes: Other keys of the spec.
        """
        values: dict[str, Any] = {
            "name": f"by-{dispatcher}",
            "dispatcher": dispatcher,
            "labels": {task: {"expert": expert, "task": {"lab": task}} for task, expert in labels.items()},
            "engine": "torch",
            "registry": self.uri,
        }
        return run_calibrate(parse_spec(values | changes, CalibrateSpec))

    def stored(self, reference: str) -> StoredDispatcher:
        """Load a dispatcher from the registry."""
        return self.registry.load_dispatcher(self.registry.resolve(reference, self.bundle.slug))

    def opened(self, reference: str) -> Dispatcher:
        """Open a dispatcher of the registry."""
        tokenizer, template = self.bundle.tokenizer(), lab_task(_TASK).template
        return self.stored(reference).open(lambda prompt: template.render(tokenizer, prompt))

    def decide(self, dispatcher: Dispatcher, samples: list[Sample]) -> list[Decision]:
        """Run the first pass on samples."""
        return self.engine.run(decide_all(dispatcher, self.engine.engine, [sample.prompt for sample in samples]))

    def right(self, samples: list[Sample], mixtures: list[Mixture]) -> list[bool]:
        """Answer samples under the mixture of each, and return which answers are right."""
        digests = [self._digest(mixture) for mixture in mixtures]
        tokenizer = self.bundle.tokenizer()
        graded = evaluate(self.engine, tokenizer, lab_task(_TASK), samples, digests).graded
        return [reward is not None and reward > 0 for reward in graded]

    def _digest(self, mixture: Mixture) -> str:
        if not mixture:
            return BASE_Z
        return self.engine.put_z(mix([self.experts[name] for name in mixture], list(mixture.values())))


@contextmanager
def project(steps: int, tell: Callable[[str], None]) -> Iterator[Project]:
    """Train the lab's experts and its classifier inside the block, about a minute on one core, and register them.

    Args:
        steps: Of training.
        tell: Is told what happens.
    """
    tell("building the lab base, or finding it")
    bundle = pack_base(BaseSpec())
    model = bundle.open()
    with TemporaryDirectory() as folder, SyncEngine(TorchEngine(model, EngineSpec(slots=256, z_rows=256))) as engine:
        registry = ExpertRegistry(root=Path(folder))
        tell(f"training {', '.join((*KINDS, CLASSIFIER))}: {steps} steps")
        experts = {}
        for name, z in _trained(model, engine, steps).items():
            version = registry.register(name, z, Provenance.of(z), base_name=bundle.name, alias=CHAMPION)
            experts[version.reference] = z
            engine.put_z(z)
        yield Project(bundle, engine, experts, registry, f"sqlite:///{folder}/mlflow.db")


def _trained(model: SvfModel, engine: SyncEngine, steps: int) -> dict[str, ZVector]:
    weights = SvfWeights(model)
    spec = LearnerSpec(steps=steps)
    cohort = [ExpertInTraining(weights, lab_task(name), spec, name) for name in (*KINDS, CLASSIFIER)]
    learner = Learner(weights, engine, cohort)
    while not all(expert.done for expert in cohort):
        learner.step()
    learner.close()
    return {expert.name: weights.z(spec, expert.p) for expert in cohort}
