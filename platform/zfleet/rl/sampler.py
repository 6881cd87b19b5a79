"""Where the answers of a step come from: the engine, now or some steps ahead, or the task's reference answers."""

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
from zfleet.rl.member import Member
from zfleet.rl.recite import recite
from zfleet.rl.rollout import Rollout, Turn, roll_out
from zfleet.rl.weights import Weights
from zfleet.svf.zvector import ZVector


@dataclass(frozen=True)
class Answered:
    """One member's answers of one step.

    Attributes:
        rollouts: This worker's.
        z_step: Steps that the z had learned under which they were sampled.
        seconds: That the batch took in which they were sampled and graded.
    """

    rollouts: Sequence[Rollout]
    z_step: int
    seconds: float


@dataclass(frozen=True)
class _Wanted:
    """A step of a member that is to be answered, under the p of an earlier step or of this one."""

    member: Member
    step: int
    z_step: int
    p: Tensor


class Answers:
    """Asks for the answers of steps, for all members in one batch.

    With staleness k, step t is answered under the z of step t - k (of step 0 before that), whatever the timing: what is
    learned depends on the spec alone, and a run that was interrupted asks again for just what was under way.
    """

    def __init__(self, engine: SyncEngine, weights: Weights, workers: DataParallel) -> None:
        self._engine = engine
        self._weights = weights
        self._workers = workers
        self._pending: dict[Member, deque[tuple[int, Future[list[Answered]], int]]] = defaultdict(deque)
        self._ahead: ThreadPoolExecutor | None = None
        self._busy = threading.Lock()

    def take(self, members: Sequence[Member]) -> list[Answered]:
        """The answers of each member's next step.

        Raises:
            RewardError: A reward function raised; names the sample.
            InvalidZ: A z is not finite.
        """
        wanted = [one for member in members for one in self._missing(member)]
        if any(member.spec.staleness for member in members):
            self._ahead = self._ahead or ThreadPoolExecutor(1, "zfleet-rollouts")
            future = self._ahead.submit(self._answer, wanted)
        else:
            future = Future()
            future.set_result(self._answer(wanted))
        for place, one in enumerate(wanted):
            self._pending[one.member].append((one.step, future, place))
        try:
            taken = [self._pending[member].popleft() for member in members]
            return [future.result()[place] for _, future, place in taken]
        except BaseException:
            # What was asked ahead belongs to a step that is not taken.
            self._pending.clear()
            raise

    def close(self) -> None:
        """Wait for what is under way."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)

    @contextmanager
    def published(self, *zs: ZVector | None) -> Iterator[list[str]]:
        """The digests of some z, which the engine knows inside the block; None stands for the model as it is."""
        with self._busy:
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

    def _missing(self, member: Member) -> list[_Wanted]:
        """Steps up to ``staleness`` ahead that nobody has asked for."""
        done, behind = member.steps_done, member.spec.staleness
        asked = {step for step, *_ in self._pending[member]}
        steps = [step for step in range(done, min(done + behind + 1, member.spec.steps)) if step not in asked]
        z_steps = [max(0, step - behind) for step in steps]
        return [_Wanted(member, step, at, member.p_at(at)) for step, at in zip(steps, z_steps, strict=True)]

    def _answer(self, wanted: Sequence[_Wanted]) -> list[Answered]:
        began = time.perf_counter()
        with self.published(*(self._weights.z(one.member.spec, one.p) for one in wanted)) as digests:
            turns = [
                one.member.turn(one.step, digest, one.z_step, self._workers)
                for one, digest in zip(wanted, digests, strict=True)
            ]
            rollouts = self._rollouts(turns)
        seconds = time.perf_counter() - began
        return [Answered(some, one.z_step, seconds) for some, one in zip(rollouts, wanted, strict=True)]

    def _rollouts(self, turns: Sequence[Turn]) -> list[list[Rollout]]:
        tokenizer = self._weights.model.base.tokenizer
        sampled = [turn for turn in turns if turn.spec.objective == "reinforce"]
        answers = iter(roll_out(self._engine, tokenizer, sampled))
        return [next(answers) if turn.spec.objective == "reinforce" else recite(tokenizer, turn) for turn in turns]
