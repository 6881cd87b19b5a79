"""Checkpoints of an expert in training: safetensors, resumed bit for bit.

No state of a random generator is in them: every draw follows from the spec's seed, the step and the sample, see
``rollout.seed_of`` and ``rollout.draw_prompts``. What is stored is the expert's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zfleet.errors import CheckpointError
from zfleet.svf.digest import digest_tensors

_SIGNED = ("step", "mean_reward", "selection", "factors")


@dataclass(frozen=True, eq=False)
class Selection:
    """The best p of a run by validation, if there is any.

    Attributes:
        score: Its mean reward; None before the first validation.
        step: After how many steps it was reached.
        p: It: [P].
        worse: How many validations since then found nothing better.
    """

    score: float | None = None
    step: int = 0
    p: Tensor | None = None
    worse: int = 0

    def updated(self, score: float, step: int, p: Tensor) -> Selection:
        """Take one more validation into account. Of equals the first stays: it is the nearest to the base."""
        if self.score is not None and score <= self.score:
            return Selection(self.score, self.step, self.p, self.worse + 1)
        return Selection(score, step, p.detach().clone())


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An expert in training between two steps.

    Attributes:
        tensors: ``p`` [P]; Adam's ``exp_avg`` [P], ``exp_avg_sq`` [P] and ``adam_step``; ``past`` [k, P], the p before
            each of the last steps, which answers under way may be sampled from; ``best`` [P] of ``Selection``, if any.
        step: How many steps are done; the data's position follows from it.
        mean_reward: Moving average over the steps; None before the first.
        best_score, best_step, worse: Of ``Selection``.
        factors: Digest of the factors that it trains on.
    """

    tensors: dict[str, Tensor]
    step: int
    mean_reward: float | None
    best_score: float | None
    best_step: int
    worse: int
    factors: str

    @classmethod
    def capture(
        cls,
        p: Tensor,
        optimizer: torch.optim.Adam,
        past: Sequence[Tensor],
        selection: Selection,
        *,
        step: int,
        mean_reward: float | None,
        factors: str,
    ) -> Checkpoint:
        """Copy everything a step depends on."""
        adam = optimizer.state.get(p, {})
        tensors = {
            "p": p.detach().cpu().clone(),
            "exp_avg": adam.get("exp_avg", torch.zeros_like(p)).detach().cpu().clone(),
            "exp_avg_sq": adam.get("exp_avg_sq", torch.zeros_like(p)).detach().cpu().clone(),
            "adam_step": torch.as_tensor(adam.get("step", 0.0)).reshape(1).clone(),
            "past": torch.stack(list(past)).cpu() if past else torch.empty(0, p.numel()),
        }
        if selection.p is not None:
            tensors["best"] = selection.p.cpu().clone()
        return cls(tensors, step, mean_reward, selection.score, selection.step, selection.worse, factors)

    def selection(self, device: torch.device) -> Selection:
        """Return what validations found."""
        best = self.tensors.get("best")
        return Selection(self.best_score, self.best_step, None if best is None else best.to(device), self.worse)

    def apply(self, p: Tensor, optimizer: torch.optim.Adam) -> list[Tensor]:
        """Put everything back into p and its optimizer, and return the p of the last steps."""
        with torch.no_grad():
            p.copy_(self.tensors["p"])
        optimizer.state[p] = {
            "step": self.tensors["adam_step"][0].clone(),
            "exp_avg": self.tensors["exp_avg"].to(p.device).clone(),
            "exp_avg_sq": self.tensors["exp_avg_sq"].to(p.device).clone(),
        }
        return list(self.tensors["past"].to(p.device))

    def to_bytes(self) -> bytes:
        """Serialise as a safetensors file."""
        header = {
            "step": str(self.step),
            "mean_reward": json.dumps(self.mean_reward),
            "selection": json.dumps([self.best_score, self.best_step, self.worse]),
            "factors": self.factors,
        }
        header["digest"] = digest_tensors(self.tensors, *(header[key] for key in _SIGNED))
        return safetensors.torch.save(self.tensors, header)

    @classmethod
    def from_bytes(cls, data: bytes, place: str, remedy: str) -> Checkpoint:
        """Read what ``to_bytes`` wrote.

        Args:
            place: What errors call the file.
            remedy: What errors advise.

        Raises:
            CheckpointError: Truncated or damaged.
        """
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if digest_tensors(tensors, *(header[key] for key in _SIGNED)) != header["digest"]:
                raise ValueError("its values do not match the digest stored with them")
            best_score, best_step, worse = json.loads(header["selection"])
            return cls(
                tensors,
                int(header["step"]),
                json.loads(header["mean_reward"]),
                best_score,
                best_step,
                worse,
                header["factors"],
            )
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{place} is truncated or damaged: {error}", remedy) from error
