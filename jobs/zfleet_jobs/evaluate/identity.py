"""What an answer depends on, as digests: under the same ones a later run takes it from the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.specs import EngineSpec
from zfleet.evaluate.answering import Ask
from zfleet.evaluate.splits import Split, row_digest
from zfleet.models.bundle import BaseBundle
from zfleet.rewards.grading import reward_identity
from zfleet.tasks.task import Sample, Task

FORMAT = "zfleet-evaluation/1"
"""Changes if the meaning of a stored column does, and not with zfleet's version: answers outlive the code."""

_ELSEWHERE = {"name", "resources", "engine", "workers", "storage", "registry"}
"""Keys of a spec that change where and how fast an evaluation runs, and not what it finds."""


@dataclass(frozen=True)
class AnswerKey:
    """One answer within a setting: the same key, the same answer.

    Attributes:
        asked: Digest of the prompt as it is put to the engine, its reference answer and its fields.
        z: Digest of the z.
        seed: Of a sampled answer; 0 of a greedy one.
    """

    asked: str
    z: str
    seed: int


def answer_key(ask: Ask, temperature: float) -> AnswerKey:
    """Name an answer."""
    return AnswerKey(asked_digest(ask.sample), ask.z_digest, ask.seed if temperature else 0)


def asked_digest(sample: Sample) -> str:
    """Return the sha256 of all of a sample that its answer and its grade depend on."""
    return _sha256([row_digest(sample), dict(sample.fields)])


@dataclass(frozen=True)
class EngineIdentity:
    """The part of an answer's identity that all tasks of a run share.

    Attributes:
        base: Fingerprint of the base.
        factors: Digest of its factors.
        dtype, device: How it computes.
        kind: Of the engine.
        form: How the engine computes the linears, as a spec writes it.
    """

    base: str
    factors: str
    dtype: str
    device: str
    kind: str
    form: object

    @classmethod
    def of(cls, bundle: BaseBundle, engine: EngineSpec) -> EngineIdentity:
        """Describe an engine, `auto` resolved, on a base. Its sizes are left out: they change how fast it answers."""
        spec = bundle.spec
        return cls(
            bundle.fingerprint,
            bundle.factors_digest,
            spec.dtype,
            spec.device,
            engine.kind,
            engine.vllm.form.model_dump(),
        )

    def setting(self, task: Task, temperature: float) -> str:
        """Return the digest of all that answers to a task share: how it is asked, sampled, computed and graded."""
        asked = [task.template.text, task.max_tokens, list(task.stop), reward_identity(task.reward), temperature]
        return _sha256([FORMAT, vars(self), asked])

    def first_pass(self, dispatcher: str) -> str:
        """Return the digest of all that the decisions of a dispatcher share; ``dispatcher`` is its own digest."""
        return _sha256([FORMAT, vars(self), "first pass", dispatcher])


def run_digest(
    spec: EvaluateSpec,
    engine: EngineIdentity,
    experts: Mapping[str, str],
    tasks: Mapping[str, Task],
    splits: Mapping[str, Split],
    dispatchers: Mapping[str, str],
) -> str:
    """Return the digest of all that an evaluation's outcome depends on.

    Args:
        spec: The evaluation.
        engine: Answers.
        experts: {reference: digest of its z}.
        tasks: By their keys.
        splits: Of each task.
        dispatchers: {name: digest}.
    """
    data = {
        name: [engine.setting(tasks[name], spec.temperature)]
        + [[asked_digest(sample) for sample in part] for part in (parts.pool, parts.selection, parts.test)]
        for name, parts in splits.items()
    }
    return _sha256(
        [
            FORMAT,
            spec.model_dump(mode="json", exclude=_ELSEWHERE),
            vars(engine),
            list(experts.items()),
            dict(dispatchers),
            data,
        ]
    )


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
