"""The base class of all parts of a spec, and the types of names in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from zfleet.config.names import LONGEST, NAME, expert_name

Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=LONGEST)]
ExpertName = Annotated[str, AfterValidator(expert_name)]


class Spec(BaseModel):
    """A strict, frozen part of a spec: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
