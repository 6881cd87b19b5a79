"""How a run computes, as it was chosen by the memory there was."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import TrainSpec


@dataclass(frozen=True)
class Chosen:
    """What `auto` stands for in a run.

    Attributes:
        micro_batch_tokens: The most tokens of a micro-batch.
        recompute: Whether decoder layers run again in the backward pass.
    """

    micro_batch_tokens: int
    recompute: bool

    def learner(self, spec: LearnerSpec) -> LearnerSpec:
        """Replace `auto` in the settings of a learner."""
        auto = spec.micro_batch_tokens == "auto"
        return spec.model_copy(update={"micro_batch_tokens": self.micro_batch_tokens}) if auto else spec

    def training(self, spec: TrainSpec) -> TrainSpec:
        """Replace `auto` in a job."""
        tokens = {"micro_batch_tokens": self.micro_batch_tokens}
        experts = tuple(
            one.model_copy(update={"learner": one.learner | tokens})
            if one.learner.get("micro_batch_tokens") == "auto"
            else one
            for one in spec.experts
        )
        recompute = self.recompute if spec.recompute == "auto" else spec.recompute
        learner = self.learner(spec.learner)
        return spec.model_copy(update={"learner": learner, "experts": experts, "recompute": recompute})
