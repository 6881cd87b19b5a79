"""A dispatcher as a file: its document and its examples, without any code, verified on every load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from zfleet.adapt.asking import AskingDispatcher
from zfleet.adapt.calibration import Calibration, Facts
from zfleet.adapt.cascade import CascadeDispatcher, CascadeStep
from zfleet.adapt.contract import Dispatcher, Mixture, Render
from zfleet.adapt.document import DispatcherDocument, StepDocument
from zfleet.adapt.examples import Examples
from zfleet.adapt.few_shot import FewShotDispatcher
from zfleet.adapt.nearest import NearestDispatcher
from zfleet.adapt.scoring import ScoringDispatcher
from zfleet.config.explain import explain
from zfleet.engine.contract import BASE_Z
from zfleet.errors import DispatcherError, WrongBase
from zfleet.unique_keys import RepeatedKey, unique_keys

FORMAT = "zfleet-dispatcher/2"
_REMEDY = "restore the file from the registry, or calibrate the dispatcher again"
_ARRAYS: Mapping[str, tuple[type, int]] = {
    "points": (np.float32, 2),
    "counts": (np.int32, 1),
    "mean": (np.float32, 1),
    "deviation": (np.float32, 1),
    "spreads": (np.float32, 1),
}
"""The arrays of ``Examples``: type and number of dimensions."""


@dataclass(frozen=True, eq=False)
class StoredDispatcher:
    """A dispatcher that can be written, read and opened.

    Attributes:
        document: Everything but the examples.
        examples: Known prompts; None if no step compares with any.
    """

    document: DispatcherDocument
    examples: Examples | None = None

    def __post_init__(self) -> None:
        labels = () if self.examples is None else self.examples.labels
        if labels != self.document.example_labels:
            raise DispatcherError(
                f"the examples are of labels {list(labels)}, the document says {list(self.document.example_labels)}",
                _REMEDY,
            )

    @cached_property
    def digest(self) -> str:
        """sha256 over the document and the examples."""
        state = hashlib.sha256(f"{FORMAT}\0{self._text}\0".encode())
        for name, array in self._arrays().items():
            state.update(f"{name}\0{array.dtype}\0{list(array.shape)}\0".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def to_bytes(self, extra: Mapping[str, str] | None = None) -> bytes:
        """Serialise as a safetensors file: the examples' arrays, and the document and ``extra`` as metadata."""
        metadata = {"format": FORMAT, "document": self._text, "digest": self.digest}
        if extra:
            metadata["extra"] = json.dumps(dict(extra), sort_keys=True)
        return safetensors.numpy.save(self._arrays(), metadata)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "this file") -> StoredDispatcher:
        """Read and verify what ``to_bytes`` wrote.

        Raises:
            DispatcherError: Truncated, changed, not a dispatcher, or with values that make no sense; says which.
        """
        try:
            arrays = safetensors.numpy.load(data)
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        except (safetensors.SafetensorError, ValueError) as error:
            raise DispatcherError(f"{source} is no complete safetensors file: {error}", _REMEDY) from error
        if metadata.get("format") != FORMAT:
            found = metadata.get("format")
            remedy = "calibrate the dispatcher again" if str(found).startswith("zfleet-dispatcher/") else _REMEDY
            raise DispatcherError(f"{source} has format {found!r}, not {FORMAT!r}", remedy)
        document = _document(metadata.get("document", ""), source)
        examples = _examples(arrays, document.example_labels, source) if arrays or document.example_labels else None
        stored = cls(document, examples)
        if stored.digest != metadata.get("digest"):
            raise DispatcherError(
                f"{source} was changed: its content has digest {stored.digest[:12]}, stored is "
                f"{str(metadata.get('digest'))[:12]}",
                _REMEDY,
            )
        return stored

    def check_base(self, base: str, factors: str) -> None:
        """Refuse another base or other factors than the dispatcher was calibrated on.

        Raises:
            WrongBase: The fingerprint or the digest differs.
        """
        for what, own, other in (("base", self.document.base, base), ("factors", self.document.factors, factors)):
            if own != other:
                raise WrongBase(
                    f"the dispatcher was calibrated on {what} {own[:12]}, not on {what} {other[:12]}",
                    "calibrate a dispatcher on this base, or serve that one",
                )

    def check_experts(self, found: Mapping[str, str]) -> None:
        """Refuse other experts than the dispatcher was calibrated with.

        Args:
            found: {reference: z digest} of the experts that are there.

        Raises:
            DispatcherError: An expert is missing, or its z is another one; names it.
        """
        for reference, digest in self.document.experts.items():
            if found.get(reference) != digest:
                now = f"has z {found[reference][:12]}" if reference in found else "is not there"
                raise DispatcherError(
                    f"the dispatcher was calibrated with expert {reference} of z {digest[:12]}, and {reference} {now}",
                    "calibrate the dispatcher again, with the experts that it is to route to",
                )

    def open(self, render: Render) -> Dispatcher:
        """Make the dispatcher. The engine must know the z of the experts that it asks.

        Args:
            render: Turns a user's text into an engine's prompt.
        """
        steps = [CascadeStep(self._opened(step, render), _least(step)) for step in self.document.steps]
        return steps[0].dispatcher if len(steps) == 1 else CascadeDispatcher(steps)

    def scoring(self, render: Render) -> list[ScoringDispatcher]:
        """Make the steps that weigh labels, in order: those that can be calibrated."""
        opened = [self._opened(step, render) for step in self.document.steps]
        return [step for step in opened if isinstance(step, ScoringDispatcher)]

    def with_calibration(self, found: Sequence[Calibration], facts: Facts) -> StoredDispatcher:
        """Return the dispatcher with the calibration of each of its ``scoring`` steps, and what was measured."""
        left = iter(found)
        steps = tuple(
            step if step.kind == "few_shot" else step.model_copy(update={"calibration": next(left)})
            for step in self.document.steps
        )
        return replace(self, document=self.document.model_copy(update={"steps": steps, "facts": facts}))

    def with_label(
        self, label: str, mixture: Mixture, experts: Mapping[str, str], states: np.ndarray
    ) -> StoredDispatcher:
        """Return a ``nearest`` dispatcher with one more label, as ``NearestDispatcher.learned``.

        Args:
            label: A new one.
            mixture: {reference: alpha}.
            experts: {reference: z digest} of the mixture's experts.
            states: Hidden states of the label's examples, [n, hidden] float32.

        Raises:
            DispatcherError: The dispatcher is of another kind, or as ``Examples.with_label``.
        """
        if self.document.kind != "nearest" or self.examples is None:
            raise DispatcherError(
                f"a dispatcher of kind {self.document.kind!r} cannot learn a label", "calibrate one of kind `nearest`"
            )
        examples = self.examples.with_label(label, states)
        values = self.document.model_dump()
        values["routes"] |= {label: dict(mixture)}
        values["experts"] |= dict(experts)
        values["example_labels"] = examples.labels
        return StoredDispatcher(DispatcherDocument.model_validate(values), examples)

    @property
    def _text(self) -> str:
        return json.dumps(self.document.model_dump(mode="json"), sort_keys=True, allow_nan=False)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {} if self.examples is None else {name: getattr(self.examples, name) for name in _ARRAYS}

    def _opened(self, step: StepDocument, render: Render) -> Dispatcher:
        if step.kind == "few_shot":
            return FewShotDispatcher(self.document.tasks)
        shared: dict[str, Any] = {"routes": self.document.routes, "render": render, "calibration": step.calibration}
        if step.kind == "nearest":
            assert self.examples is not None
            return NearestDispatcher(examples=self.examples, **shared)
        z = BASE_Z if step.asks is None else self.document.experts[step.asks]
        assert step.question is not None
        examples = self.examples if step.compares else None
        return AskingDispatcher(kind=step.kind, z_digest=z, question=step.question, examples=examples, **shared)


def _least(step: StepDocument) -> float | None:
    return 1.0 if step.kind == "few_shot" else step.calibration.threshold


def _document(text: str, source: str) -> DispatcherDocument:
    try:
        # Read as JSON again by pydantic, in which lists are tuples; here only to find keys that are given twice.
        json.loads(text, object_pairs_hook=unique_keys)
        return DispatcherDocument.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(explain(error, DispatcherDocument))
        raise DispatcherError(f"the document of {source} cannot be used: {problems}", _REMEDY) from None
    except (RepeatedKey, ValueError) as error:
        raise DispatcherError(f"the document of {source} is no JSON: {error}", _REMEDY) from None


def _examples(arrays: Mapping[str, np.ndarray], labels: tuple[str, ...], source: str) -> Examples:
    if arrays.keys() != _ARRAYS.keys():
        odd = ", ".join(sorted(arrays.keys() ^ _ARRAYS.keys()))
        raise DispatcherError(f"{source} has, or lacks, the arrays {odd}", _REMEDY)
    for name, (kind, dimensions) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype != kind or array.ndim != dimensions:
            raise DispatcherError(f"{name} of {source} is {array.dtype} {list(array.shape)}", _REMEDY)
        if not np.isfinite(array).all():
            raise DispatcherError(f"{name} of {source} holds NaN or infinite values", _REMEDY)
    hidden = arrays["points"].shape[1]
    sizes = {"counts": len(labels), "mean": hidden, "deviation": hidden, "spreads": len(labels)}
    for name, size in sizes.items():
        if arrays[name].size != size:
            raise DispatcherError(f"{name} of {source} has {arrays[name].size} numbers, not {size}", _REMEDY)
    if arrays["counts"].sum() != len(arrays["points"]):
        raise DispatcherError(f"counts of {source} do not add up to its {len(arrays['points'])} examples", _REMEDY)
    for name in ("counts", "deviation", "spreads"):
        if not (arrays[name] > 0).all():
            raise DispatcherError(f"{name} of {source} holds values that are 0 or less", _REMEDY)
    return Examples(labels=labels, **{name: arrays[name] for name in _ARRAYS})
