"""The spec of a transfer: experts of one base, measured on another one of the same architecture."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zfleet.config.spec import Name, Spec
from zfleet.config.specs import REGISTRY_URI, AnsweringSpec
from zfleet.config.task_specs import TaskSpec


class OriginSpec(Spec):
    """The base that the experts were trained on; its targets are those of `base`."""

    model: str = Field(description="as `base.model`")
    name: Name | None = Field(None, description="as `base.name`: the name in the registry")


class TransferSpec(AnsweringSpec):
    """`zfleet transfer`: experts of `origin`, ordered and shuffled, on `base`."""

    kind: Literal["transfer"] = "transfer"
    origin: OriginSpec
    experts: tuple[str, ...] = Field(
        min_length=1, description="references to experts of `origin`, such as `math`, `math/3`, `math@champion`"
    )
    task: TaskSpec
    eval_samples: int = Field(512, ge=1, description="held-out prompts graded, greedily")
    shuffle_seed: int = Field(0, ge=0, description="of the permutations that the order is compared with")
    search: bool = Field(False, description="also search a mixture of the transferred experts on a few shots")
    shots: int = Field(10, ge=1, description="training prompts that the search sees")
    shots_seed: int = 0
    register_ordered: bool = Field(
        False, description="register each transferred expert, values in order, as NAME-from-ORIGIN of `base`"
    )
    storage: str = Field("runs/transfer", description="folder of the search's state")
    registry: str | None = Field(None, description=REGISTRY_URI)

    @model_validator(mode="after")
    def _two_bases(self) -> TransferSpec:
        if self.origin.model == self.base.model:
            raise ValueError(f"origin.model and base.model are both {self.base.model!r}: name two bases")
        return self

    @model_validator(mode="after")
    def _of_the_search(self) -> TransferSpec:
        fields = type(self).model_fields
        given = [name for name in ("shots", "shots_seed", "storage") if getattr(self, name) != fields[name].default]
        if given and not self.search:
            raise ValueError(f"{', '.join(given)} have no effect without a search: set search to true, or omit them")
        if self.search and self.task.reward.on_error == "skip":
            raise ValueError(
                "task.reward.on_error is 'skip': a search compares candidates on the same shots and cannot skip one; "
                "write `stop`"
            )
        return self
