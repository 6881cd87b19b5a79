"""The HTTP side: an OpenAI-compatible FastAPI application over a ``Service``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from zfleet.engine.contract import GenerationRequest
from zfleet.errors import ZfleetError
from zfleet_serve.errors import describe, describe_invalid, describe_unexpected, error_body
from zfleet_serve.respond import events, whole_body
from zfleet_serve.schemas import ChatRequest, CompletionRequest
from zfleet_serve.service import Answer, Service
from zfleet_serve.wire import ChatDialect, CompletionDialect, Dialect


def create_app(service: Service) -> FastAPI:
    """The application; ``service`` does the work."""
    app = FastAPI(title="zfleet", docs_url=None, redoc_url=None)
    _answer_errors(app)
    started = int(time.time())

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "base": service.served.base, "engine": asdict(await service.engine.stats())}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = await service.models()
        entries = [{"id": name, "object": "model", "created": started, "owned_by": "zfleet"} for name in names]
        return {"object": "list", "data": entries}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest) -> Response | dict[str, Any]:
        prompt = service.text.chat(body.turns)
        # Without a limit the answer may be as long as fits; a prompt that does not fit is refused by the engine.
        limit = body.limit or max(1, service.served.max_length - len(prompt))
        request = GenerationRequest(prompt, body.sampling(limit, body.logprobs), stream=body.stream)
        dialect = ChatDialect(service.text, body.logprobs)
        return await _respond(service, body, body.last_user_text, request, dialect)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest) -> Response | dict[str, Any]:
        logprobs = body.logprobs is not None
        request = GenerationRequest(body.prompt, body.sampling(body.max_tokens, logprobs), stream=body.stream)
        text = body.prompt if isinstance(body.prompt, str) else None
        return await _respond(service, body, text, request, CompletionDialect(service.text, logprobs))

    return app


async def _respond(
    service: Service,
    body: ChatRequest | CompletionRequest,
    user_text: str | None,
    request: GenerationRequest,
    dialect: Dialect,
) -> Response | dict[str, Any]:
    async with AsyncExitStack() as stack:
        answer = await stack.enter_async_context(service.answer(body.model, user_text, request))
        if not body.stream:
            return await whole_body(answer, dialect, body.model)
        # The stream outlives this function; it ends the answer when it is read to its end or left.
        stream = _stream(stack.pop_all(), answer, dialect, body)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _stream(
    stack: AsyncExitStack, answer: Answer, dialect: Dialect, body: ChatRequest | CompletionRequest
) -> AsyncIterator[str]:
    async with stack:
        async for event in events(answer, dialect, body.model, body.include_usage):
            yield event


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form, FastAPI's own included."""

    @app.exception_handler(ZfleetError)
    async def ours(_: Request, error: ZfleetError) -> JSONResponse:
        status, body = describe(error)
        return JSONResponse(body, status, {"Retry-After": "1"} if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        status, body = describe_invalid(error.errors())
        return JSONResponse(body, status)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(message, kind="invalid_request_error"), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(describe_unexpected(error), 500)
