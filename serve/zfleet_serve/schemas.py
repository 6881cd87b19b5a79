"""Requests and what zfleet adds to responses, in OpenAI's form. What is not supported is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from zfleet.engine.contract import MAX_N, SamplingParams

# Values that ask for nothing: clients send them although they mean "no".
_NOTHING: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "functions": ([],),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "top_logprobs": (0,),
}


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _joined(content: object) -> object:
    """Text parts become one text.

    Raises:
        ValueError: A part is of another type.
    """
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"a part of type {kind!r} cannot be answered here: parts must be of type 'text'")
    return "".join(str(part.get("text", "")) for part in content)


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class StreamOptions(_Wire):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _Request(_Wire):
    """What both endpoints take."""

    model: str
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MAX_N)
    seed: int | None = None
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_more)] = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, data: Any) -> Any:
        """Null means that an option was not given; some others mean it too."""
        if not isinstance(data, dict):
            return data
        return {
            key: value
            for key, value in data.items()
            if value is not None and not any(value == nothing for nothing in _NOTHING.get(key, ()))
        }

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk about usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int, logprobs: bool) -> SamplingParams:
        """The engine's sampling parameters."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=max_tokens,
            stop=self.stop,
            seed=self.seed,
            logprobs=logprobs,
            n=self.n,
        )


class Message(_Wire):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """The longest answer asked for; None is what fits."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def turns(self) -> list[dict[str, str]]:
        """The conversation for the chat template."""
        return [message.model_dump() for message in self.messages]

    @property
    def last_user_text(self) -> str | None:
        """What the dispatchers look at."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), None)


class CompletionRequest(_Request):
    """``POST /v1/completions``; one prompt, as text or as token ids."""

    prompt: str | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    max_tokens: int = Field(16, ge=1)
    logprobs: Literal[0] | None = Field(None, description="0: the sampled tokens' own; no alternatives")


class MixturePart(_Wire):
    """One expert of what answered."""

    expert: str
    version: int
    alpha: float | tuple[float, ...]


class Dispatched(_Wire):
    """What the first pass decided."""

    method: str
    label: str
    reason: str


class Answered(_Wire):
    """The ``zfleet`` object of a response: what answered, and how long it took."""

    model: str
    mixture: list[MixturePart]
    dispatch: Dispatched | None
    z: str
    first_pass_ms: float | None
    second_pass_ms: float


class Usage(_Wire):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
