"""Specs of tasks and rewards: what an expert is trained on and measured by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from zfleet.config.datasets import DEFAULTS, DatasetName
from zfleet.config.spec import Name, Spec


class GraderSpec(Spec):
    """One grader: right is +1, wrong is -1 (a Python function may give any finite number, `length` a penalty)."""

    kind: Literal[
        "exact", "contains", "regex", "choice", "number", "boxed", "math", "soft", "program", "length", "python", "sum"
    ] = "exact"
    value: str = Field(
        "",
        description="the word, the pattern, `module:function`, or the characters that `length` leaves free; "
        "empty: the row's answer",
    )
    seconds: float = Field(5.0, gt=0, description="`math` and `program`: the longest one verdict takes")
    sandbox: Literal["bubblewrap", "unsafe"] = Field(
        "bubblewrap", description="`program`: `unsafe` runs what a model wrote as you, with your files and network"
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.sandbox != "bubblewrap" and self.kind != "program":
            raise ValueError(f"sandbox is for kind `program`, this is {self.kind!r}")
        if self.kind == "length" and not (self.value.isdecimal() and int(self.value) > 0):
            raise ValueError(
                f"value is {self.value!r}: `length` takes the number of characters that are free, in quotes"
            )
        return self


class PartSpec(GraderSpec):
    """A part of a reward of kind `sum`."""

    weight: float = Field(1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.kind == "sum":
            raise ValueError("a part of a `sum` is no `sum` itself: write its parts beside the others")
        return self


class RewardSpec(GraderSpec):
    """How answers are graded: by one grader, or by the weighted sum of several."""

    parts: dict[Name, PartSpec] = Field({}, description="`sum`: name: grader, each with a weight")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="when the function raises or the sandbox fails: stop, or leave the sample out"
    )

    @model_validator(mode="after")
    def _parts_of_a_sum(self) -> Self:
        if (self.kind == "sum") != bool(self.parts):
            raise ValueError(
                "a `sum` needs `parts`, {name: grader}" if self.kind == "sum" else "`parts` are for kind `sum`"
            )
        return self


class TaskSpec(Spec):
    """A task: one of the lab's by name, a public dataset, or a JSONL file of prompts with a reward."""

    lab: str | None = Field(None, description="a task of the lab base")
    verbs: Literal["mix", "clear"] = Field("mix", description="lab only: which instruction words")
    dataset: DatasetName | None = Field(None, description="a public dataset; brings prompt, reward and max_tokens")
    data: str | None = Field(
        None, description="dataset only: the folder that holds its authors' files, or one file; none: the hub"
    )
    prompt: str = Field("", description="dataset only: what a user would type, a format string over the row's fields")
    jsonl: str | None = Field(None, description="a file with one JSON object a line")
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    image_field: str | None = Field(
        None, description="jsonl only: the field with the path of the prompt's image, or a list, from the file's folder"
    )
    template: str | None = Field(None, description="format string over the row's fields; none: the chat template")
    reward: RewardSpec = RewardSpec()
    max_tokens: int = Field(32, ge=1)
    stop: tuple[str, ...] = ()
    test_fraction: float = Field(0.2, gt=0, lt=1, description="held out for evaluation, by digest of the prompt")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_dataset(cls, given: object) -> object:
        if isinstance(given, dict):
            for name, defaults in DEFAULTS.items():
                if given.get("dataset") == name:
                    return {**defaults, **given}
        return given

    @model_validator(mode="after")
    def _one_source(self) -> TaskSpec:
        sources = [name for name in _USED_BY if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError("a task needs exactly one of " + ", ".join(f"`{name}`" for name in _USED_BY))
        (source,) = sources
        fields = type(self).model_fields
        unused = fields.keys() - {source, *_USED_BY[source]}
        # Compared with the defaults, not by what was set: a resolved spec sets everything.
        ignored = sorted(name for name in unused if getattr(self, name) != fields[name].default)
        if ignored:
            raise ValueError(f"a `{source}` task does not use: {', '.join(ignored)}")
        return self


_SHARED = ("template", "reward", "max_tokens", "stop", "test_fraction")
_USED_BY: Mapping[str, tuple[str, ...]] = {
    "lab": ("verbs",),
    "dataset": ("data", "prompt", *_SHARED),
    "jsonl": ("prompt_field", "answer_field", "image_field", *_SHARED),
}
"""Keys of a task, by its source."""
