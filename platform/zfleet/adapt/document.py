"""A dispatcher as plain data: everything but its examples and the base's tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import Field, FiniteFloat, model_validator

from zfleet.adapt.calibration import Calibration, Facts
from zfleet.config.calibrate import StepKind
from zfleet.config.spec import Spec
from zfleet.errors import DispatcherError

StoredMixture = dict[str, FiniteFloat | tuple[FiniteFloat, ...]]
"""{reference of an expert: alpha}."""


class StepDocument(Spec):
    """One dispatcher: the only one, or a step of a cascade.

    Attributes:
        kind: What it does.
        asks: Reference of the expert that answers the question; None: the base does.
        question: What is asked; ``{prompt}`` in it stands for the user's text. None if nothing is.
        compares: Whether prompts are compared with the examples.
        calibration: Of this step.
    """

    kind: StepKind
    asks: str | None = None
    question: str | None = None
    compares: bool = False
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        asking = self.kind in ("prompt", "classifier", "soft")
        if asking != (self.question is not None):
            raise ValueError(f"question is {self.question!r}: `prompt`, `classifier` and `soft` have one, others none")
        if self.kind != "soft" and (self.kind == "classifier") != (self.asks is not None):
            raise ValueError(f"asks is {self.asks!r}: `classifier` needs an expert, `soft` may have one, others none")
        if (self.kind == "nearest" and not self.compares) or (self.kind == "few_shot" and self.compares):
            raise ValueError(f"compares is {self.compares}: `nearest` must compare, `few_shot` cannot")
        return self


class DispatcherDocument(Spec):
    """A dispatcher, the experts that it routes to, and what calibration found.

    Attributes:
        base: Fingerprint of the base.
        factors: Digest of the base's factors.
        experts: {reference: z digest} of all experts that it routes to or asks.
        routes: {label: mixture}.
        tasks: {task: mixture}, of ``few_shot``.
        steps: One, or those of a cascade, in order.
        example_labels: The labels of the examples, in the order in which the examples have them.
        facts: What calibration measured; None if there was none.
    """

    base: str
    factors: str
    experts: dict[str, str]
    routes: dict[str, StoredMixture] = Field({})
    tasks: dict[str, StoredMixture] = Field({})
    steps: tuple[StepDocument, ...] = Field(min_length=1)
    example_labels: tuple[str, ...] = ()
    facts: Facts | None = None

    @property
    def kind(self) -> str:
        """The kind of the dispatcher."""
        return self.steps[0].kind if len(self.steps) == 1 else "cascade"

    def renamed(self, names: Mapping[str, str]) -> DispatcherDocument:
        """Return the document with other references, as in another registry.

        Args:
            names: {reference: the new one}; those that are left out stay.

        Raises:
            DispatcherError: Two references become the same.
        """
        new = {reference: names.get(reference, reference) for reference in self.experts}
        if len(set(new.values())) < len(new):
            raise DispatcherError(
                f"experts {', '.join(new)} of the dispatcher would be {', '.join(new.values())}",
                "give each expert a version of its own",
            )
        values = self.model_dump()
        values["experts"] = {new[reference]: digest for reference, digest in self.experts.items()}
        for mixtures in (values["routes"], values["tasks"]):
            for label, mixture in mixtures.items():
                mixtures[label] = {new[reference]: alpha for reference, alpha in mixture.items()}
        for step in values["steps"]:
            step["asks"] = new.get(step["asks"])
        return DispatcherDocument.model_validate(values)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for where, reference in self._named():
            if reference not in self.experts:
                raise ValueError(f"{where} names expert {reference!r}, which is not among `experts`")
        kinds = {step.kind for step in self.steps}
        if ("few_shot" in kinds) != bool(self.tasks):
            raise ValueError("`tasks` are for `few_shot`, which needs them")
        if (kinds != {"few_shot"}) != bool(self.routes):
            raise ValueError("`routes` are for dispatchers that look at prompts, which need them")
        compared = set(self.routes) if any(step.compares for step in self.steps) else set()
        if set(self.example_labels) != compared:
            raise ValueError("dispatchers that compare need examples of every label of `routes`, others have none")
        return self

    def _named(self) -> Iterator[tuple[str, str]]:
        for name, mixtures in (("routes", self.routes), ("tasks", self.tasks)):
            for label, mixture in mixtures.items():
                yield from ((f"{name}.{label}", reference) for reference in mixture)
        for place, step in enumerate(self.steps):
            if step.asks is not None:
                yield f"steps.{place}.asks", step.asks
