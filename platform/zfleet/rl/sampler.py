"""The rollouts of a step: sampled by the engine, now or some steps ahead, or the task's reference answers."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.reference_answers import reference_rollouts
from zfleet.rl.rollout import Rollout, RolloutRequest, roll_out
from zfleet.rl.weights import Weights
from zfleet.svf.zvector import ZVector


@dataclass(frozen=True)
class StepRollouts:
    """One expert's rollouts of one step.

    Attributes:
        rollouts: This worker's.
        z_step: After how many steps the z was reached that they were sampled under.
        seconds: How long the batch took in which they were sampled and graded.
    """

    rollouts: Sequence[Rollout]
    z_step: int
    seconds: float


@dataclass(frozen=True)
class _PlannedStep:
    """A step of an expert that is to be sampled, under the p of an earlier step or of this one."""

    expert: ExpertInTraining
    step: int
    z_step: int
    p: Tensor


@dataclass(frozen=True)
class _PendingStep:
    """A step that is being sampled: at ``place`` of what the future gives."""

    step: int
    batch: Future[list[StepRollouts]]
    place: int


class Sampler:
    """Samples the steps of all experts of a cohort in one batch.

    With staleness k, step t is sampled under the z of step t - k (of step 0 before that), whatever the timing: what is
    learned depends on the spec alone, and a run that was interrupted samples again just what was under way.
    """

    def __init__(self, engine: SyncEngine, weights: Weights, workers: DataParallel) -> None:
        self._engine = engine
        self._weights = weights
        self._workers = workers
        self._pending: dict[ExpertInTraining, deque[_PendingStep]] = defaultdict(deque)
        self._ahead: ThreadPoolExecutor | None = None
        self._publishing = threading.Lock()

    def take(self, experts: Sequence[ExpertInTraining]) -> list[StepRollouts]:
        """Return the rollouts of each expert's next step.

        Raises:
            RewardError: A reward function raised; names the sample.
            InvalidZ: A z is not finite.
        """
        planned = [step for expert in experts for step in self._unplanned(expert)]
        batch: Future[list[StepRollouts]]
        if any(expert.spec.staleness for expert in experts):
            self._ahead = self._ahead or ThreadPoolExecutor(1, "zfleet-rollouts")
            batch = self._ahead.submit(self._sample, planned)
        else:
            batch = Future()
            batch.set_result(self._sample(planned))
        for place, step in enumerate(planned):
            self._pending[step.expert].append(_PendingStep(step.step, batch, place))
        try:
            taken = [self._pending[expert].popleft() for expert in experts]
            return [step.batch.result()[step.place] for step in taken]
        except BaseException:
            # Steps that were sampled ahead are not taken after an error.
            self._pending.clear()
            raise

    def close(self) -> None:
        """Wait for what is under way."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)

    @contextmanager
    def published(self, *zs: ZVector | None) -> Iterator[list[str]]:
        """Give some z to the engine for as long as the block runs, and yield their digests; None is the model as it is.

        Blocks of several threads run one after another.
        """
        with self._publishing:
            known: list[str] = []
            digests = []
            try:
                for z in zs:
                    digest = BASE_Z if z is None else self._engine.put_z(z)
                    digests.append(digest)
                    # Two experts may stand at the same z: it is dropped once.
                    if z is not None and digest not in known:
                        known.append(digest)
                yield digests
            finally:
                for digest in known:
                    self._engine.drop_z(digest)

    def _unplanned(self, expert: ExpertInTraining) -> list[_PlannedStep]:
        """List the steps up to ``staleness`` ahead that are not being sampled yet."""
        done, staleness = expert.steps_done, expert.spec.staleness
        pending = {step.step for step in self._pending[expert]}
        steps = [step for step in range(done, min(done + staleness + 1, expert.spec.steps)) if step not in pending]
        z_steps = [max(0, step - staleness) for step in steps]
        return [
            _PlannedStep(expert, step, z_step, expert.p_at(z_step)) for step, z_step in zip(steps, z_steps, strict=True)
        ]

    def _sample(self, planned: Sequence[_PlannedStep]) -> list[StepRollouts]:
        began = time.perf_counter()
        with self.published(*(self._weights.z(step.expert.spec, step.p) for step in planned)) as digests:
            requests = [
                step.expert.rollout_request(step.step, digest, step.z_step, self._workers)
                for step, digest in zip(planned, digests, strict=True)
            ]
            rollouts = self._rollouts(requests)
        seconds = time.perf_counter() - began
        return [StepRollouts(some, step.z_step, seconds) for some, step in zip(rollouts, planned, strict=True)]

    def _rollouts(self, requests: Sequence[RolloutRequest]) -> list[list[Rollout]]:
        tokenizer = self._weights.model.base.tokenizer
        sampled = iter(roll_out(self._engine, tokenizer, [one for one in requests if one.samples_answers]))
        return [next(sampled) if one.samples_answers else reference_rollouts(tokenizer, one) for one in requests]
