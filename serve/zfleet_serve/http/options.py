"""The options that chats and completions share, in OpenAI's form and, where it has none, in vLLM's."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from zfleet.engine.contract import MAX_N, MAX_TOP_LOGPROBS, SamplingParams
from zfleet.engine.sampling_params import MAX_BIAS, MAX_BIASED, MAX_STOP
from zfleet_serve.http.messages import Wire, without_nothing

_NOTHING: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
}
"""Values that switch an option off. Clients send them although they mean the same as null."""


def whole(value: object) -> object:
    """Accept 5.0 as an integer: JSON has one kind of number, and some clients write all numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def no_bool(value: object) -> object:
    """Refuse booleans, because in Python False equals 0.

    Raises:
        ValueError: It is true or false.
    """
    if isinstance(value, bool):
        raise ValueError("it is a number here: so many alternatives of each token, 0 for none")
    return value


WHOLE = BeforeValidator(whole)
Count = Annotated[int, Field(ge=1), WHOLE]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Alternatives = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), WHOLE, BeforeValidator(no_bool)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS, allow_inf_nan=False)]


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _alpha(value: object) -> float | tuple[float, ...]:
    """Read an alpha.

    Raises:
        ValueError: It is no finite number, and no list of them.
    """
    numbers: list[Any] = value if isinstance(value, list) else [value]
    if numbers and all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        return tuple(map(float, numbers)) if isinstance(value, list) else float(numbers[0])
    raise ValueError("an alpha must be a finite number, or one for each layer of the base")


_NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
Mix = Annotated[
    float | tuple[float, ...], PlainValidator(_alpha), WithJsonSchema({"anyOf": [{"type": "number"}, _NUMBERS]})
]


class Addition(Wire):
    """What zfleet adds to OpenAI's requests."""

    mixture: dict[str, Mix] | None = Field(
        None, description="{expert: alpha} to mix for this request, such as math, math/3 or math@champion"
    )


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Options(Wire):
    """The options of both endpoints."""

    model: str
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    n: Annotated[int, Field(ge=1, le=MAX_N), WHOLE] = 1
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOP), BeforeValidator(_one_or_more)
    ] = Field([])
    stop_token_ids: list[Token] = Field([], max_length=MAX_STOP)
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1), WHOLE] = Field(0, description="0 or -1: all tokens")
    min_p: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Bias] = Field({}, max_length=MAX_BIASED)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    zfleet: Addition = Addition()
    metadata: dict[str, str] = Field({}, description="`task` names the request's task, for dispatchers of tasks")

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, data: Any) -> Any:
        """Take null, and values that mean the same, as options that were not given."""
        return without_nothing(data, _NOTHING)

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Options:
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

    @property
    def scores_prompts(self) -> bool:
        """Whether the prompts' own tokens have log-probabilities, too."""
        return False

    @property
    def alternatives(self) -> int | None:
        """How many alternatives of each token the answer has; None: no log-probabilities at all."""
        raise NotImplementedError

    def sampling(self, max_tokens: int) -> SamplingParams:
        """Build the engine's sampling parameters."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=max_tokens,
            stop=tuple(self.stop),
            seed=self.seed,
            logprobs=self.alternatives is not None,
            n=self.n,
            top_logprobs=self.alternatives or 0,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=tuple({int(token): bias for token, bias in self.logit_bias.items()}.items()),
            stop_token_ids=tuple(self.stop_token_ids),
        )
