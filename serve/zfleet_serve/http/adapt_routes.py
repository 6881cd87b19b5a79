"""The first pass alone over HTTP: who would answer, how sure that is, and why. Nothing is generated."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from zfleet_serve.adaptive.service import Service
from zfleet_serve.http.bodies import Reader
from zfleet_serve.http.document import takes
from zfleet_serve.http.messages import Message, Wire
from zfleet_serve.http.options import Addition
from zfleet_serve.http.results import Adapted, adapted
from zfleet_serve.http.schemas import user_text_of


class AdaptRequest(Wire):
    """``POST /v1/zfleet/adapt``: a prompt as text, or the messages of a chat."""

    model: str
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    metadata: dict[str, str] = Field({}, description="`task` names the request's task, for dispatchers of tasks")
    zfleet: Addition = Addition()

    @model_validator(mode="after")
    def _one_of_both(self) -> AdaptRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, and not both")
        return self

    @property
    def user_text(self) -> str | None:
        """The text by which dispatchers choose."""
        return self.prompt if self.messages is None else user_text_of(self.messages)


def adapt_routes(service: Service, reader: Reader) -> APIRouter:
    """Build the route of the first pass."""
    router = APIRouter()
    adapt_body = Depends(reader.body_of(AdaptRequest))

    @router.post("/v1/zfleet/adapt", **takes(AdaptRequest))
    async def adapt(body: AdaptRequest = adapt_body) -> Adapted:
        return adapted(await service.route(body.model, body.user_text, body.metadata.get("task"), body.zfleet.mixture))

    return router
