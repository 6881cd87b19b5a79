"""Text into tokens and back over HTTP, with the names and shapes that vLLM gives these routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from zfleet_serve.adaptive.service import Service
from zfleet_serve.http.bodies import Reader
from zfleet_serve.http.document import refuses, takes
from zfleet_serve.http.messages import Message, Wire
from zfleet_serve.http.options import Token
from zfleet_serve.http.schemas import characters_of


class TokenizeRequest(Wire):
    """``POST /tokenize``: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = Field(
        None, description="of a prompt: true by default; a chat template adds its own"
    )
    add_generation_prompt: Literal[True] = True
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, and not both")
        if self.messages is not None and self.add_special_tokens:
            raise ValueError("add_special_tokens is true, and messages have those of the chat template")
        return self


class Tokenized(Wire):
    """Token ids, and the entries of the vocabulary if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Wire):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: list[Token]


class Detokenized(Wire):
    """The text of token ids."""

    prompt: str


def tokenizer_routes(service: Service, reader: Reader) -> APIRouter:
    """Build the routes of the base's tokenizer; every model has the same."""
    router = APIRouter()
    text = service.text
    tokenize_body = Depends(reader.body_of(TokenizeRequest))
    detokenize_body = Depends(reader.body_of(DetokenizeRequest))

    @router.post("/tokenize", **takes(TokenizeRequest))
    async def tokenize(body: TokenizeRequest = tokenize_body) -> Tokenized:
        await check(body.model)
        prompt, messages, special = body.prompt, body.messages, body.add_special_tokens is not False
        if messages is not None:
            turns = [message.model_dump() for message in messages]
            tokens = await reader.read(lambda: text.chat(turns), characters_of(messages))
        else:
            assert prompt is not None, "the schema demands one of both"
            tokens = await reader.read(lambda: text.tokens(prompt, special), len(prompt))
        names = text.names(tokens) if body.return_token_strs else None
        longest = service.served.max_length
        return Tokenized(count=len(tokens), max_model_len=longest, tokens=list(tokens), token_strs=names)

    @router.post("/detokenize", **takes(DetokenizeRequest))
    async def detokenize(body: DetokenizeRequest = detokenize_body) -> Detokenized:
        await check(body.model)
        return Detokenized(prompt=await reader.read(lambda: text.decode(body.tokens), len(body.tokens)))

    @router.get("/tokenizer_info", responses=refuses())
    async def tokenizer_info() -> dict[str, Any]:
        return text.info()

    async def check(model: str | None) -> None:
        if model is not None:
            await service.models.find(model)

    return router
