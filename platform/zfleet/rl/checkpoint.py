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
from zfleet.rl.selection import Selection
from zfleet.svf.digest import digest_tensors

_SIGNED = ("step", "mean_reward", "selection", "factors")


@dataclass(frozen=True, eq=False)
class LearnerState:
    """An expert in training between two steps.

    Attributes:
        tensors: ``p`` [P], Adam's ``exp_avg`` [P], ``exp_avg_sq`` [P], ``adam_step``; ``past`` [k, P]:
            before each of the last steps, from which answers under way may come; ``best`` [P] where there is one.
        step: Steps done; the data's position follows from it.
        mean_reward: Moving average over the steps; None before the first.
        best_score, best_step, worse: Of ``Selection``.
        factors: Digest of the factors it trains on.
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
    ) -> LearnerState:
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
        found = (selection.score, selection.step, selection.worse)
        return cls(tensors, step, mean_reward, *found, factors)

    def selection(self, device: torch.device) -> Selection:
        """What validations had found."""
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
        """A safetensors file."""
        header = {
            "step": str(self.step),
            "mean_reward": json.dumps(self.mean_reward),
            "selection": json.dumps([self.best_score, self.best_step, self.worse]),
            "factors": self.factors,
        }
        header["digest"] = digest_tensors(self.tensors, *(header[key] for key in _SIGNED))
        return safetensors.torch.save(self.tensors, header)

    @classmethod
    def from_bytes(cls, data: bytes, place: str, remedy: str) -> LearnerState:
        """Read what ``to_bytes`` gave.

        Args:
            place: What errors call it.
            remedy: What they advise.

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
