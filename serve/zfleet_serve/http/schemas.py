"""Requests, and zfleet's additions to responses, in OpenAI's form. Unsupported options are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from zfleet.engine.contract import MAX_N, SamplingParams
from zfleet_serve.http.messages import Message, Wire, without_nothing

Prompt = str | tuple[int, ...]

_CHARACTERS_A_TURN = 16

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
"""Values that switch an option off. Clients send them although they mean the same as null."""


def _whole(value: object) -> object:
    """Accept 5.0 as an integer: JSON has one kind of number, and some clients write all numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_bool(value: object) -> object:
    """Refuse booleans, because in Python False equals 0.

    Raises:
        ValueError: It is true or false.
    """
    if isinstance(value, bool):
        raise ValueError("it is a number here: 0 asks for the sampled tokens' own")
    return value


_WHOLE = BeforeValidator(_whole)
Count = Annotated[int, Field(ge=1), _WHOLE]


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> tuple[Prompt, ...]:
    """Read one prompt or several, each a text or token ids.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a text, token ids, or a list of texts or of token ids, and not empty")
    # Not isinstance: true and false are integers to Python.
    if all(type(token) is int for token in value):
        value = [value]
    return tuple(_prompt(item) for item in value)


def _prompt(item: object) -> Prompt:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and item and all(type(token) is int and token >= 0 for token in item):
        return tuple(item)
    raise ValueError("each prompt must be a text, or a list of token ids: integers from 0, at least one")


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _Request(Wire):
    """The options of both endpoints."""

    model: str
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    n: Annotated[int, Field(ge=1, le=MAX_N), _WHOLE] = 1
    seed: Annotated[int, _WHOLE] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_one_or_more)] = Field([])
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] = Field({}, description="`task` names the request's task, for dispatchers of tasks")

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, data: Any) -> Any:
        """Take null, and values that mean the same, as options that were not given."""
        return without_nothing(data, _NOTHING)

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def task(self) -> str | None:
        """The task that the request names; None if it names none."""
        return self.metadata.get("task")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk about usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int, logprobs: bool) -> SamplingParams:
        """Build the engine's sampling parameters."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=max_tokens,
            stop=tuple(self.stop),
            seed=self.seed,
            logprobs=logprobs,
            n=self.n,
        )


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """The length of the longest answer; None is as long as fits."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def turns(self) -> list[dict[str, str]]:
        """The conversation for the chat template."""
        return [message.model_dump() for message in self.messages]

    @property
    def characters(self) -> int:
        """The length of the conversation; the template also has work with a turn without content."""
        return sum(_CHARACTERS_A_TURN + len(message.content) for message in self.messages)

    @property
    def user_text(self) -> str | None:
        """The text by which dispatchers choose."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), None)


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}


class CompletionRequest(_Request):
    """``POST /v1/completions``; one prompt or several."""

    prompt: Annotated[
        tuple[Prompt, ...],
        PlainValidator(_prompts),
        WithJsonSchema({"anyOf": [{"type": "string"}, _IDS, _TEXTS, {"type": "array", "items": _IDS, "minItems": 1}]}),
    ]
    max_tokens: Count = 16
    logprobs: Annotated[Literal[0] | None, BeforeValidator(_no_bool)] = Field(
        None, description="0: the sampled tokens' own; no alternatives"
    )

    @model_validator(mode="after")
    def _so_many_answers(self) -> CompletionRequest:
        if len(self.prompt) * self.n > MAX_N:
            raise ValueError(
                f"{len(self.prompt)} prompts with n {self.n} ask for {len(self.prompt) * self.n} answers: "
                f"a request may ask for {MAX_N} at most"
            )
        return self

    @property
    def user_text(self) -> str | None:
        """The text by which dispatchers choose; None if the prompt is not a single text."""
        return self.prompt[0] if len(self.prompt) == 1 and isinstance(self.prompt[0], str) else None


class MixturePart(Wire):
    """One expert of the answer's z."""

    expert: str
    version: int
    alpha: float | tuple[float, ...] | dict[str, float]


class Dispatched(Wire):
    """The decision of the first pass."""

    method: str
    label: str | None
    confidence: float
    probabilities: dict[str, float]
    reason: str
    prompt_tokens: int


class Answered(Wire):
    """The ``zfleet`` object of a response: the experts that answered, and how long it took."""

    model: str
    mixture: list[MixturePart]
    dispatch: Dispatched | None
    z: str
    first_pass_ms: float | None
    second_pass_ms: float


class Usage(Wire):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
