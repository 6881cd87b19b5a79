"""The grader of formulas: right if math-verify finds the answer equal to the reference."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.rewards.formulas.process import math_process
from zfleet.rewards.numbers.extract import last_boxed, own_answer
from zfleet.rewards.text import ReferenceGrader
from zfleet.tasks.task import Grade, Sample, verdict


@dataclass(frozen=True)
class MathAnswer(ReferenceGrader):
    r"""Right if the completion's formula equals the reference.

    The formula is the content of the last ``\boxed{}``; without a box, math-verify looks for one.

    Attributes:
        seconds: The longest time that a comparison may take; after that the answer counts as wrong.
    """

    seconds: float = 5.0

    def __call__(self, completion: str, sample: Sample) -> Grade:
        reference = self.reference(sample)
        boxed = last_boxed(completion)
        answer = own_answer(completion) if boxed is None else f"\\boxed{{{boxed}}}"
        comparison = math_process().compare(f"\\boxed{{{reference}}}", answer, self.seconds)
        extracted = boxed if boxed is not None else comparison.answer
        if comparison.reason:
            return verdict(False, extracted, comparison.reason)
        if comparison.answer is None:
            return verdict(False, extracted, "no formula in it")
        relation = "equals" if comparison.right else "differs from"
        return verdict(comparison.right, extracted, f"{comparison.answer} {relation} {reference}")
