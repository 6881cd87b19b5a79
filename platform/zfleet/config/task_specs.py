"""Specs of tasks and rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from zfleet.config.datasets import DEFAULTS, DatasetName
from zfleet.config.generated import GeneratedName
from zfleet.config.spec import Name, Spec


class GraderSpec(Spec):
    """One grader: right is +1, wrong is -1 (a Python function may give any finite number, `length` a penalty)."""

    kind: Literal[
        "exact", "contains", "regex", "choice", "number", "boxed", "math", "soft", "program", "length", "python", "sum"
    ] = "exact"
    value: str = Field(
        "",
        description="the word, the pattern, `module:function`, or for `length` the number of free characters; "
        "empty: the row's answer",
    )
    seconds: float = Field(5.0, gt=0, description="`math` and `program`: the time limit of one verdict")
    sandbox: Literal["bubblewrap", "unsafe"] = Field(
        "bubblewrap", description="`program`: `unsafe` runs a model's code as you, with your files and network"
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.sandbox != "bubblewrap" and self.kind != "program":
            raise ValueError(f"sandbox is for kind `program`, but kind is {self.kind!r}")
        if self.kind == "length" and not (self.value.isdecimal() and int(self.value) > 0):
            raise ValueError(f"value is {self.value!r}: for `length`, give the number of free characters, in quotes")
        return self


class PartSpec(GraderSpec):
    """A part of a reward of kind `sum`."""

    weight: float = 1.0

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.kind == "sum":
            raise ValueError("a part of a `sum` cannot be a `sum`: write its parts beside the others")
        return self


class RewardSpec(GraderSpec):
    """A reward: one grader, or the weighted sum of several."""

    parts: dict[Name, PartSpec] = Field({}, description="`sum`: graders by name, each with a weight")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="if the function raises or the sandbox fails: stop, or leave the sample out"
    )

    @model_validator(mode="after")
    def _parts_of_a_sum(self) -> Self:
        if (self.kind == "sum") != bool(self.parts):
            raise ValueError(
                "a `sum` needs `parts`, {name: grader}" if self.kind == "sum" else "`parts` are for kind `sum`"
            )
        return self


class TaskSpec(Spec):
    """A task: a public dataset, a JSONL file of prompts with a reward, or one that zfleet generates, by its name."""

    lab: str | None = Field(None, description="a task of the lab base")
    verbs: Literal["mix", "clear"] = Field("mix", description="lab only: which instruction words")
    generated: GeneratedName | None = Field(
        None, description="a task of generated prompts for instruction models; brings prompt, reward and max_tokens"
    )
    dataset: DatasetName | None = Field(None, description="a public dataset; brings prompt, reward and max_tokens")
    data: str | None = Field(
        None, description="dataset only: the folder with its authors' files, or one file; none: the hub"
    )
    prompt: str = Field("", description="dataset only: the user's text, a format string over the row's fields")
    jsonl: str | None = Field(None, description="a file with one JSON object in each line")
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
    def _dataset_defaults(cls, data: object) -> object:
        if isinstance(data, dict):
            for name, defaults in DEFAULTS.items():
                if data.get("dataset") == name:
                    return {**defaults, **data}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> TaskSpec:
        sources = [name for name in _USED_BY if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError("a task needs exactly one of " + ", ".join(f"`{name}`" for name in _USED_BY))
        (source,) = sources
        fields = type(self).model_fields
        unused = fields.keys() - {source, *_USED_BY[source]}
        # Compare with the defaults: `model_fields_set` does not help, because a resolved spec sets every key.
        ignored = sorted(name for name in unused if getattr(self, name) != fields[name].default)
        if ignored:
            raise ValueError(f"a `{source}` task does not use: {', '.join(ignored)}")
        return self


_SHARED = ("template", "reward", "max_tokens", "stop", "test_fraction")
_USED_BY: Mapping[str, tuple[str, ...]] = {
    "lab": ("verbs",),
    "generated": ("template",),
    "dataset": ("data", "prompt", *_SHARED),
    "jsonl": ("prompt_field", "answer_field", "image_field", *_SHARED),
}
"""The keys that a task may set, by its source."""
