"""The HTTP side: an OpenAI-compatible FastAPI application over a ``Service``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from zfleet.engine.contract import GenerationRequest, PromptRequest
from zfleet.errors import EngineError, InvalidRequest, ZfleetError
from zfleet_serve.access.context import current
from zfleet_serve.access.control import AccessControl
from zfleet_serve.adaptive.service import Answer, Service, Tokens
from zfleet_serve.http.access import AccessMiddleware, usage_of
from zfleet_serve.http.adapt_routes import AdaptRequest, adapt_routes
from zfleet_serve.http.bodies import Reader
from zfleet_serve.http.document import answers, document, refuses
from zfleet_serve.http.errors import describe_invalid, describe_unexpected, error_body, error_response
from zfleet_serve.http.models_routes import models_routes
from zfleet_serve.http.request_ids import RequestIds, headers_of, id_of
from zfleet_serve.http.respond import events, whole_body
from zfleet_serve.http.schemas import ChatRequest, CompletionRequest
from zfleet_serve.http.tokenizer_routes import DetokenizeRequest, TokenizeRequest, tokenizer_routes
from zfleet_serve.http.unsupported import why_unsupported
from zfleet_serve.http.wire import ChatDialect, CompletionDialect, Dialect
from zfleet_serve.telemetry import RequestLog, Telemetry
from zfleet_serve.telemetry.responses import CountResponses
from zfleet_serve.telemetry.scrape import CONTENT_TYPE

T = TypeVar("T")
_RETRY = {"Retry-After": "1"}
_HEALTH_SECONDS = 3.0
"""How long the health endpoint waits for an engine: load balancers ask often, and do not wait."""


def create_app(service: Service, access: AccessControl | None = None, telemetry: Telemetry | None = None) -> FastAPI:
    """Build the application.

    Args:
        service: Does the work.
        access: Decides who may ask; None: everybody.
        telemetry: Tells operators of it; None: what ``/metrics`` shows, and neither log nor traces of its own.
    """
    app = FastAPI(title="zfleet", docs_url=None, redoc_url=None)
    access = access or AccessControl()
    watched = telemetry or Telemetry(service.served.base, RequestLog())
    service.shadows.told = watched.shadowed
    # The last one sees a request first.
    app.add_middleware(AccessMiddleware, access=access)
    app.add_middleware(RequestIds)
    app.add_middleware(CountResponses, metrics=watched.metrics)
    _answer_errors(app)
    reader = Reader(service.served.max_body)
    chat_body, completion_body = Depends(reader.body_of(ChatRequest)), Depends(reader.body_of(CompletionRequest))

    @app.get("/healthz", responses=refuses(), response_model=None)
    async def healthz() -> Response | dict[str, Any]:
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await service.engine.check_health()
                stats = await service.engine.stats()
        except (EngineError, TimeoutError):
            body = error_body("no engine answers", kind="server_error", code="engine_unavailable")
            return JSONResponse(body, 503, _RETRY)
        if not current.get().known:
            return {"status": "ok"}
        dispatchers = service.first_pass.state()
        return {"status": "ok", "base": service.served.base, "engine": asdict(stats), "dispatchers": dispatchers}

    @app.get("/metrics", responses=refuses(), response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(await watched.scrape(service.engine), media_type=CONTENT_TYPE)

    @app.get("/v1/zfleet/usage", responses=refuses())
    async def usage(since: str | None = None) -> dict[str, Any]:
        return await usage_of(access, since)

    @app.post("/v1/chat/completions", **answers(ChatRequest))
    async def chat(request: Request, body: ChatRequest = chat_body) -> Response | dict[str, Any]:
        prompt = await reader.read(lambda: service.text.chat(body.turns), body.characters)
        # Without a limit the answer may be as long as fits; a prompt that does not fit is refused by the engine.
        limit = body.limit or max(1, service.served.max_length - len(prompt))
        dialect = ChatDialect(service.text, [prompt], body.n, body.alternatives)
        work = _respond(service, watched, request, body, [prompt], limit, dialect)
        return await _while_connected(request, work)

    @app.post("/v1/completions", **answers(CompletionRequest))
    async def completions(request: Request, body: CompletionRequest = completion_body) -> Response | dict[str, Any]:
        prompts = [
            await reader.read(partial(service.text.tokens, prompt), len(prompt)) if isinstance(prompt, str) else prompt
            for prompt in body.prompt
        ]
        echo = body.prompt if body.echo else None
        dialect = CompletionDialect(service.text, prompts, body.n, body.alternatives, echo)
        work = _respond(service, watched, request, body, prompts, body.max_tokens, dialect)
        return await _while_connected(request, work)

    app.include_router(models_routes(service))
    app.include_router(tokenizer_routes(service, reader))
    app.include_router(adapt_routes(service, reader))
    document(app, ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest, AdaptRequest)
    return app


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do work for a request whose body was read. It is cancelled if the client leaves, and so are its answers."""
    try:
        async with asyncio.timeout(None) as connected:
            watch = asyncio.create_task(_expire_when_left(request, connected))
            try:
                return await work
            finally:
                watch.cancel()
    except TimeoutError:
        if connected.expired():
            # Nobody reads this, but any other error would count as a defect of the service in its log.
            raise InvalidRequest("the client left before its answer was complete", "send it again") from None
        raise


async def _expire_when_left(request: Request, connected: asyncio.Timeout) -> None:
    await request.receive()  # after the body, the only message is that the client has left
    connected.reschedule(0)


async def _respond(
    service: Service,
    telemetry: Telemetry,
    request: Request,
    body: ChatRequest | CompletionRequest,
    prompts: Sequence[Tokens],
    limit: int,
    dialect: Dialect,
) -> Response | dict[str, Any]:
    sampling = body.sampling(max(limit, 1))
    requests = [GenerationRequest(prompt, sampling, stream=body.stream) for prompt in prompts]
    scored = [PromptRequest(prompt, sampling.top_logprobs) for prompt in prompts] if body.scores_prompts else []
    async with AsyncExitStack() as stack:
        watch = stack.enter_context(
            telemetry.watching(id_of(request.scope), dialect.operation, body.user_text, dict(request.headers))
        )
        answer = await stack.enter_async_context(
            service.answer(
                body.model,
                body.user_text,
                requests,
                body.task,
                user=body.user,
                mixture=body.zfleet.mixture,
                prompts=scored,
                empty=not limit,
            )
        )
        watch.routed(answer.route, dialect.prompt_tokens)
        answer.chunks = watch.following(answer.chunks)
        if limit and body.zfleet.mixture is None:
            await service.shadows.copy(id_of(request.scope), body.model, requests)
        if not body.stream:
            return await whole_body(answer, dialect, body.model)
        # The stream outlives this function. It ends the answer when it is read to its end, or when the client leaves.
        stream = _stream(stack.pop_all(), answer, dialect, body)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _stream(
    stack: AsyncExitStack, answer: Answer, dialect: Dialect, body: ChatRequest | CompletionRequest
) -> AsyncIterator[str]:
    async with stack:
        async for event in events(answer, dialect, body.model, body.include_usage):
            yield event


def _answer_errors(app: FastAPI) -> None:
    """Answer every error in OpenAI's form, also FastAPI's own."""

    @app.exception_handler(ZfleetError)
    async def ours(_: Request, error: ZfleetError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        status, body = describe_invalid(error.errors())
        return JSONResponse(body, status)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        reason = why_unsupported(request.url.path) if error.status_code == 404 else None
        message = f"{request.method} {request.url.path}: {reason or error.detail}"
        body = error_body(message, kind="invalid_request_error", code=reason and "unsupported_route")
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette answers these outside of all middleware.
        return JSONResponse(describe_unexpected(error), 500, headers_of(request.scope))
