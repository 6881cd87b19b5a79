"""An evaluation, checked and ready to run: its tasks, their splits, its experts and its dispatchers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.evaluate import EvaluateSpec
from zfleet.engine.contract import BASE_Z
from zfleet.errors import TaskError
from zfleet.evaluate.cells import Mixture, numbers_of
from zfleet.evaluate.splits import Split
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import fill
from zfleet_jobs.evaluate.identity import EngineIdentity
from zfleet_jobs.search.prior import Prior


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an evaluation measures.

    Attributes:
        spec: The evaluation, its engine resolved.
        engine: The identity of what answers.
        tasks: By their keys; every prompt fits the engine.
        splits: Of each task.
        experts: {reference: z}, in the order of the spec, all of one base and its factors.
        own_tasks: {reference: keys of the tasks that it was trained on}; None if that is unknown.
        dispatchers: By their names.
        reached: {reference: z} of further experts, which dispatchers ask or route to.
        priors: {search: the dispatcher that it begins with}.
    """

    spec: EvaluateSpec
    engine: EngineIdentity
    tasks: Mapping[str, Task]
    splits: Mapping[str, Split]
    experts: Mapping[str, ZVector]
    own_tasks: Mapping[str, frozenset[str] | None]
    dispatchers: Mapping[str, StoredDispatcher]
    reached: Mapping[str, ZVector] = field(default_factory=dict)
    priors: Mapping[str, Prior] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """{name that a label may have: reference of the expert}; of several versions the first."""
        return expert_names(self.experts)

    def own(self, sample: Sample) -> str | None:
        """Return the expert of a prompt's kind, as the field of the oracle says it.

        Returns:
            The reference; an empty text if no expert has this kind, so that the base answers; None without the field.
        """
        oracle = self.spec.oracle
        kind = sample.fields.get(oracle.field)
        return None if kind is None else self.names.get(oracle.labels.get(kind, kind), "")

    def cluster(self, task: str, sample: Sample) -> str | None:
        """Return what a prompt shares with others; None if the prompts of its task are independent.

        Raises:
            TaskError: Other rows of the task have the field, and this one has not.
        """
        name = self.spec.cluster_by
        if name is None or not any(name in other.fields for other in self.splits[task].test):
            return None
        if name not in sample.fields:
            raise TaskError(
                f"cluster_by is {name!r}, and row {sample.id} of task {task} has no such field",
                "give every row of the task the field, or none",
            )
        return sample.fields[name]

    def prompted(self, sample: Sample, prompt: str) -> Sample:
        """Put a prompt of the spec around a user's text.

        Raises:
            TaskError: It names a field that the row lacks.
        """
        fields = {**sample.fields, "prompt": sample.prompt}
        return replace(sample, prompt=fill(self.spec.prompts[prompt], fields, f"prompts.{prompt}"))


class Mixtures:
    """The z of every mixture that an evaluation answers under.

    Args:
        prepared: The evaluation.

    Attributes:
        by_digest: {digest: z} of the mixtures that were asked for, and of all experts.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._experts = {**prepared.reached, **prepared.experts}
        self._digests: dict[str, str] = {}
        self.by_digest: dict[str, ZVector] = {z.digest: z for z in self._experts.values()}

    def digest(self, mixture: Mixture) -> str:
        """Return the digest of a mixture's z; the base's name if no alpha is other than 0."""
        key = json.dumps(dict(mixture))
        if key not in self._digests:
            self._digests[key] = self._mixed(mixture)
        return self._digests[key]

    def _mixed(self, mixture: Mixture) -> str:
        parts = {name: alpha for name, alpha in mixture.items() if any(numbers_of(alpha))}
        if not parts:
            return BASE_Z
        z = mix([self._experts[name] for name in parts], list(parts.values()))
        self.by_digest[z.digest] = z
        return z.digest


def expert_names(references: Mapping[str, object]) -> dict[str, str]:
    """Return {name: reference} of experts, and {reference: itself}; of several versions of a name the first listed."""
    names: dict[str, str] = {}
    for reference in references:
        names.setdefault(reference.partition("/")[0], reference)
    return {reference: reference for reference in references} | names
