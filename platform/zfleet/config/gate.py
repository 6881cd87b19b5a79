"""The gate of an alias: what a version must show before the alias points at it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from zfleet.config.names import ALIAS, CHAMPION
from zfleet.config.public_keys import PUBLIC_KEYS, refuse_private_keys
from zfleet.config.spec import Name, Spec

Alias = Annotated[str, Field(pattern=f"^{ALIAS}$", max_length=200)]
Points = Annotated[float, Field(ge=-100, le=100)]


class GuardSpec(Spec):
    """Tasks on which a version may not be worse than the present one."""

    tasks: tuple[Name, ...] = Field(min_length=1, description="keys of the evaluation's tasks")
    loss: Points = Field(
        1.0,
        ge=0,
        description="the most points that may be lost: the lower end of the paired interval is not below -loss",
    )


class GateSpec(Spec):
    """The gate of `zfleet experts promote`. A version passes if every check holds."""

    alias: Alias = CHAMPION
    tasks: tuple[Name, ...] = Field(min_length=1, description="keys of the evaluation's tasks")
    gain: Points = Field(
        0.0,
        description="the fewest points over the present version, or over the base if there is none, on each task: the "
        "lower end of the paired interval",
    )
    guard: GuardSpec | None = None
    latency: float | None = Field(
        None,
        gt=0,
        description="the longest that an answer may take, in times of the present version's seconds, such as 1.2",
    )
    approvers: tuple[str, ...] = Field((), description="the users who may promote; none: everyone")

    signed_by: tuple[str, ...] = Field((), description=f"{PUBLIC_KEYS}; none: a version need not be signed")

    @model_validator(mode="after")
    def _no_private_key(self) -> GateSpec:
        refuse_private_keys(self.signed_by)
        return self

    @model_validator(mode="after")
    def _no_task_twice(self) -> GateSpec:
        tasks = [*self.tasks, *(self.guard.tasks if self.guard else ())]
        if twice := [task for task in tasks if tasks.count(task) > 1]:
            raise ValueError(f"task {twice[0]!r} is named twice: a task is for gain or for the guard")
        return self
