"""What training an expert gave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainedExpert:
    """One expert, trained and registered.

    Attributes:
        name: The expert's name.
        reference: Its version in the registry, such as ``reverse/1``.
        z_digest: Identity of its z.
        parameters: Numbers trained.
        n: Held-out prompts graded.
        reward_before: Mean held-out reward of the base.
        reward_after: Mean held-out reward of the expert.
        accuracy_before: Fraction of held-out prompts the base answers right.
        accuracy_after: The expert's.
        left_out: Prompts that did not fit the context.
        seconds: From the start of its run to its registration; 0 when it was there already.
        run_id: The registry's run, with the curves.
    """

    name: str
    reference: str
    z_digest: str
    parameters: int
    n: int
    reward_before: float
    reward_after: float
    accuracy_before: float
    accuracy_after: float
    left_out: int
    seconds: float
    run_id: str
