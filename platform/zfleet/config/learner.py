"""How an expert learns: the part of a spec that changes its z."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zfleet.config.spec import Spec

_OF_GROUPS = ("rloo", "dr_grpo", "grpo")
"""Estimators that compare the answers to one prompt."""


class LearnerSpec(Spec):
    """SVF by reinforcement learning, or on reference answers."""

    objective: Literal["reinforce", "supervised"] = Field(
        "reinforce",
        description="`supervised` learns the next token of the rows' reference answers: what rewards are compared with",
    )
    steps: int = Field(100, ge=1)
    prompts_per_step: int = Field(128, ge=1, description="over all workers")
    samples_per_prompt: int = Field(1, ge=1)
    estimator: Literal["reinforce", "ema", "batch", "rloo", "dr_grpo", "grpo"] = Field(
        "reinforce", description="what a sample's reward is compared with; docs/training.md has a table"
    )
    parametrisation: Literal["sigmoid", "direct", "exp"] = Field("sigmoid", description="from what Adam moves to z")
    lr: float = Field(0.02, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of lr, down to 0 after `steps`")
    kl: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight of the divergence from the base")
    kl_over: Literal["policy", "base"] = Field(
        "policy", description="whose probabilities weigh it: KL(policy || base), or KL(base || policy)"
    )
    kl_in: Literal["loss", "reward"] = Field("loss", description="where that divergence counts")
    kl_limit: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="mean divergence of a sample that ends the run; also with kl 0"
    )
    clip: float = Field(1.0, gt=0, allow_inf_nan=False, description="largest norm of the gradient")
    staleness: int = Field(0, ge=0, description="steps that answers may be older than the z that learns from them")
    ratio_clip: float = Field(
        0.2, gt=0, lt=1, description="PPO's, for answers that are older: how far a token's probability may have moved"
    )
    truncated: Literal["grade", "leave_out"] = Field(
        "grade", description="answers cut at max_tokens: grade what is there, or learn nothing from them"
    )
    equal_groups: Literal["keep", "leave_out"] = Field(
        "keep", description="prompts whose answers all have one reward: count them in the mean, or leave them out"
    )
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    reward: Literal["task", "random"] = Field("task", description="`random` is the negative control")
    validate_every: int = Field(0, ge=0, description="steps; the best z by validation is kept. 0: the last z is")
    validation_samples: int = Field(128, ge=1, description="training prompts set aside for that")
    patience: int | None = Field(None, ge=1, description="validations without a better one, then training stops")
    pass_tokens: int = Field(8192, ge=1, description="prompt and answer tokens, padding included, of one backward pass")
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _groups(self) -> LearnerSpec:
        if self.estimator in _OF_GROUPS and self.samples_per_prompt < 2 and self.objective == "reinforce":
            raise ValueError(f"estimator `{self.estimator}` needs samples_per_prompt of 2 or more")
        if self.equal_groups == "leave_out" and self.samples_per_prompt < 2:
            raise ValueError("equal_groups `leave_out` needs samples_per_prompt of 2 or more")
        return self

    @model_validator(mode="after")
    def _together(self) -> LearnerSpec:
        if self.kl_in == "reward" and self.kl == 0:
            raise ValueError("kl_in is `reward` and kl is 0: set kl, or leave kl_in out")
        if self.kl_in == "reward" and self.kl_over == "base":
            raise ValueError(
                "kl_over is `base` and kl_in is `reward`: what a reward loses is measured on the policy's tokens"
            )
        if self.kl_in == "reward" and self.estimator == "grpo" and self.equal_groups == "keep":
            raise ValueError(
                "kl_in is `reward`, estimator `grpo` and equal_groups `keep`: of equal rewards only what they lose to "
                "the divergence would count, however little; set equal_groups to `leave_out`, or kl_in to `loss`"
            )
        if self.reward == "random" and self.validate_every:
            raise ValueError(
                "reward is `random` and validate_every is not 0: validation would choose by the task's own reward, and "
                "the control would be none"
            )
        return self

    @model_validator(mode="after")
    def _used(self) -> LearnerSpec:
        """No key may be set that the others leave without a use."""
        unused = {
            "patience": ("validate_every", self.validate_every > 0),
            "validation_samples": ("validate_every", self.validate_every > 0),
            "ratio_clip": ("staleness", self.staleness > 0),
            "kl_over": ("kl and kl_limit", self.kl > 0 or self.kl_limit is not None),
        }
        for name, (key, used) in unused.items():
            if not used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is {getattr(self, name)!r} and has no use: {key} is not set")
        if self.objective == "supervised":
            self._refuse_what_only_samples_have()
        return self

    def _refuse_what_only_samples_have(self) -> None:
        fields = type(self).model_fields
        used = sorted(name for name in OF_SAMPLES if getattr(self, name) != fields[name].default)
        if used:
            raise ValueError(f"objective is `supervised`, which samples nothing and does not use: {', '.join(used)}")


OF_SAMPLES = (
    *("samples_per_prompt", "estimator", "kl_in", "staleness", "ratio_clip"),
    *("truncated", "equal_groups", "temperature", "reward"),
)
"""Keys that are about sampled answers."""
