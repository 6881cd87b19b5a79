"""The spec of `zfleet serve`: who answers, how many, where, and under which limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from zfleet.config.access import AccessSpec
from zfleet.config.names import CHAMPION
from zfleet.config.public_keys import PUBLIC_KEYS, refuse_private_keys
from zfleet.config.spec import ExpertName, Reference
from zfleet.config.specs import DISPATCH_PROMPT, REGISTRY_URI, AnsweringSpec, EngineSpec, answering


class ServeSpec(AnsweringSpec, AccessSpec):
    """`zfleet serve`: the OpenAI-compatible service."""

    kind: Literal["serve"] = "serve"
    registry: str | None = Field(None, description=REGISTRY_URI)
    replicas: int = Field(1, ge=1, description="engines; the fewest where max_replicas is more")
    max_replicas: int | None = Field(None, ge=1, description="the most engines, as the load asks; none: as replicas")
    alias: str = Field(CHAMPION, description="which version a bare expert name means")
    require_signed_by: tuple[str, ...] = Field((), description=f"{PUBLIC_KEYS}; none: versions need not be signed")
    dispatcher: Reference | None = Field(
        None,
        description="who chooses for `auto`: a dispatcher in the registry, such as `router` or `router@champion`; "
        "none: `classifier`, whose confidence is not calibrated",
    )
    classifier: ExpertName = Field("kind", description="the expert that answers the first pass of `auto`")
    labels: dict[str, ExpertName] = Field(
        {}, description="label of the first pass: expert of the second; other labels name their expert"
    )
    dispatch_prompt: str = Field(DISPATCH_PROMPT, description="the question of the first pass")
    mixture_experts: int = Field(16, ge=1, le=256, description="the most experts that a request may mix")
    max_body_mib: float | None = Field(
        None, gt=0, description="the largest body of a request, in MiB; none: enough for the base's context"
    )
    request_log: str | None = Field(
        None, description="a file that gets a line of JSON for each request, without its texts; none: nothing is logged"
    )
    log_texts: bool = Field(False, description="whether these lines hold prompts and answers, too")
    engine: Annotated[EngineSpec, answering(32)] = EngineSpec(kind="auto", slots=32)

    @model_validator(mode="after")
    def _texts_in_a_file(self) -> ServeSpec:
        if self.log_texts and self.request_log is None:
            raise ValueError("log_texts is true and request_log names no file: name one, or leave log_texts out")
        return self

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> ServeSpec:
        own = ("classifier", "labels", "dispatch_prompt")
        fields = type(self).model_fields
        ignored = [name for name in own if getattr(self, name) != fields[name].default]
        if self.dispatcher is not None and ignored:
            raise ValueError(f"dispatcher is {self.dispatcher!r}, which brings its own: leave out {', '.join(ignored)}")
        return self

    @model_validator(mode="after")
    def _no_private_key(self) -> ServeSpec:
        refuse_private_keys(self.require_signed_by)
        return self

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ServeSpec:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}, replicas {self.replicas}: the most must not be below the fewest"
            )
        return self
