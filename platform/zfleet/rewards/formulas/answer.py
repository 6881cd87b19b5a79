"""The grader of formulas: right if math-verify calls the answer and the reference the same."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.rewards.comparing import Comparing
from zfleet.rewards.formulas.process import math_process
from zfleet.rewards.numbers.extract import last_boxed, own_answer
from zfleet.tasks.task import Grade, Sample, verdict


@dataclass(frozen=True)
class MathAnswer(Comparing):
    r"""Right if the completion's formula equals the reference: in its last ``\boxed{}``, else where math-verify looks.

    Attributes:
        seconds: The longest that comparing may take; later it counts as wrong.
    """

    seconds: float = 5.0

    def __call__(self, completion: str, sample: Sample) -> Grade:
        reference = self.reference(sample)
        boxed = last_boxed(completion)
        answer = own_answer(completion) if boxed is None else f"\\boxed{{{boxed}}}"
        found = math_process().compare(f"\\boxed{{{reference}}}", answer, self.seconds)
        extracted = boxed if boxed is not None else found.answer
        if found.reason:
            return verdict(False, extracted, found.reason)
        if found.answer is None:
            return verdict(False, extracted, "no formula in it")
        return verdict(
            found.right, extracted, f"{found.answer} {'equals' if found.right else 'differs from'} {reference}"
        )
