"""The learner's settings: the part of a spec that determines how a z is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zfleet.config.spec import CountOrAuto, Spec

_GROUP_ESTIMATORS = ("rloo", "dr_grpo", "grpo")
"""Estimators that compare the answers to the same prompt."""

LARGEST_MICRO_BATCH = 8192
"""The most tokens that `micro_batch_tokens: auto` stands for."""


class LearnerSpec(Spec):
    """SVF by reinforcement learning, or by supervised learning on reference answers."""

    objective: Literal["reinforce", "supervised"] = Field(
        "reinforce", description="`supervised`: next-token loss on the rows' reference answers (the SFT baseline)"
    )
    steps: int = Field(100, ge=1)
    prompts_per_step: int = Field(128, ge=1, description="over all workers")
    samples_per_prompt: int = Field(1, ge=1)
    estimator: Literal["reinforce", "ema", "batch", "rloo", "dr_grpo", "grpo"] = Field(
        "reinforce", description="the baseline of a sample's reward; docs/training.md has a table"
    )
    parametrisation: Literal["sigmoid", "direct", "exp"] = Field(
        "sigmoid", description="how z depends on the parameters that Adam updates"
    )
    lr: float = Field(0.02, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of lr; all but `constant` end at 0 after `steps`"
    )
    kl: float = Field(0.0, ge=0, description="weight of the divergence from the base")
    kl_over: Literal["policy", "base"] = Field(
        "policy", description="direction of the divergence: KL(policy || base), or KL(base || policy)"
    )
    kl_in: Literal["loss", "reward"] = Field("loss", description="add the divergence to the loss or to the reward")
    kl_limit: float | None = Field(
        None, gt=0, description="end the run at this mean divergence per sample; also with kl 0"
    )
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    staleness: int = Field(0, ge=0, description="how many steps old the z that sampled an answer may be")
    ratio_clip: float = Field(
        0.2, gt=0, lt=1, description="PPO's clip of the probability ratio, for answers that an older z sampled"
    )
    truncated: Literal["grade", "leave_out"] = Field(
        "grade", description="answers cut at max_tokens: grade them as they are, or do not learn from them"
    )
    equal_groups: Literal["keep", "leave_out"] = Field(
        "keep", description="prompts whose answers all have the same reward: count them in the mean, or leave them out"
    )
    temperature: float = Field(1.0, gt=0)
    reward: Literal["task", "random"] = Field("task", description="`random` is the negative control")
    validate_every: int = Field(0, ge=0, description="in steps; the best z is registered. 0: the last z is")
    validation_samples: int = Field(128, ge=1, description="training prompts set aside for validation")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without improvement")
    micro_batch_tokens: CountOrAuto = Field(
        "auto",
        description="prompt and answer tokens, padding included, of one micro-batch; `auto`: as many as fit the memory "
        f"and help, {LARGEST_MICRO_BATCH} at most",
    )
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def micro_batch_limit(self) -> int:
        """The most tokens of a micro-batch. A job that plans its memory replaces `auto` before it starts."""
        return LARGEST_MICRO_BATCH if self.micro_batch_tokens == "auto" else self.micro_batch_tokens

    @model_validator(mode="after")
    def _groups(self) -> LearnerSpec:
        if self.estimator in _GROUP_ESTIMATORS and self.samples_per_prompt < 2 and self.objective == "reinforce":
            raise ValueError(f"estimator `{self.estimator}` needs samples_per_prompt of 2 or more")
        if self.equal_groups == "leave_out" and self.samples_per_prompt < 2:
            raise ValueError("equal_groups `leave_out` needs samples_per_prompt of 2 or more")
        return self

    @model_validator(mode="after")
    def _together(self) -> LearnerSpec:
        if self.kl_in == "reward" and self.kl == 0:
            raise ValueError("kl_in is `reward` and kl is 0: set kl, or omit kl_in")
        if self.kl_in == "reward" and self.kl_over == "base":
            raise ValueError(
                "kl_over is `base` and kl_in is `reward`: a divergence in the reward is measured on the policy's "
                "tokens; omit kl_over"
            )
        if self.kl_in == "reward" and self.estimator == "grpo" and self.equal_groups == "keep":
            raise ValueError(
                "kl_in is `reward`, estimator `grpo` and equal_groups `keep`: in a group of equal rewards, the "
                "divergence alone would be scaled up, however small; set equal_groups to `leave_out` or kl_in to `loss`"
            )
        if self.reward == "random" and self.validate_every:
            raise ValueError(
                f"reward is `random` and validate_every is {self.validate_every}: validation would choose by the "
                "task's own reward, and the run would no longer be a control; set validate_every to 0"
            )
        return self

    @model_validator(mode="after")
    def _used(self) -> LearnerSpec:
        """Refuse a key that has no effect without another one."""
        required = {
            "patience": ("validate_every", self.validate_every > 0),
            "validation_samples": ("validate_every", self.validate_every > 0),
            "ratio_clip": ("staleness", self.staleness > 0),
            "kl_over": ("kl or kl_limit", self.kl > 0 or self.kl_limit is not None),
        }
        for name, (key, used) in required.items():
            if not used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is {getattr(self, name)!r} but has no effect: set {key}, or omit {name}")
        if self.objective == "supervised":
            self._refuse_sampling_keys()
        return self

    def _refuse_sampling_keys(self) -> None:
        fields = type(self).model_fields
        given = sorted(name for name in SAMPLING_KEYS if getattr(self, name) != fields[name].default)
        if given:
            raise ValueError(f"objective is `supervised`, which samples nothing and does not use: {', '.join(given)}")


SAMPLING_KEYS = (
    *("samples_per_prompt", "estimator", "kl_in", "staleness", "ratio_clip"),
    *("truncated", "equal_groups", "temperature", "reward"),
)
"""The keys about sampled answers."""
