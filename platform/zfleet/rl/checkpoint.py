"""Checkpoints of a learner: safetensors, written atomically, resumed bit for bit."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zfleet.errors import CheckpointError
from zfleet.files import read_or, write_atomic
from zfleet.svf.digest import digest_tensors

FILE = "learner.safetensors"
_SIGNED = ("python_rng", "step", "position", "mean_reward", "factors")


@dataclass(frozen=True, eq=False)
class LearnerState:
    """A learner between two steps.

    Attributes:
        tensors: ``p`` [R], Adam's ``exp_avg`` [R], ``exp_avg_sq`` [R] and ``adam_step``, and ``torch_rng``.
        python_rng: State of Python's random numbers.
        step: Steps done.
        position: Prompts drawn so far.
        mean_reward: Moving average over the steps; None before the first.
        factors: Digest of the factors it trains on.
    """

    tensors: dict[str, Tensor]
    python_rng: tuple[object, ...]
    step: int
    position: int
    mean_reward: float | None
    factors: str

    @classmethod
    def capture(
        cls,
        p: Tensor,
        optimizer: torch.optim.Adam,
        step: int,
        position: int,
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
            "torch_rng": torch.get_rng_state(),
        }
        return cls(tensors, random.getstate(), step, position, mean_reward, factors)

    def apply(self, p: Tensor, optimizer: torch.optim.Adam, factors: str) -> None:
        """Put everything back.

        Raises:
            CheckpointError: Other factors, or another number of values.
        """
        if self.factors != factors or self.tensors["p"].shape != p.shape:
            raise CheckpointError(
                f"the checkpoint was made on factors {self.factors[:12]}, this run uses {factors[:12]}",
                "resume with the same base and targets, or give the run another name",
            )
        with torch.no_grad():
            p.copy_(self.tensors["p"])
        optimizer.state[p] = {
            "step": self.tensors["adam_step"][0].clone(),
            "exp_avg": self.tensors["exp_avg"].to(p.device).clone(),
            "exp_avg_sq": self.tensors["exp_avg_sq"].to(p.device).clone(),
        }
        torch.set_rng_state(self.tensors["torch_rng"])
        version, numbers, gauss = self.python_rng
        assert isinstance(numbers, list | tuple)
        random.setstate((version, tuple(numbers), gauss))

    def save(self, folder: Path) -> None:
        """Write ``learner.safetensors`` into a folder, whole or not at all."""
        header = {
            "python_rng": json.dumps(self.python_rng),
            "step": str(self.step),
            "position": str(self.position),
            "mean_reward": json.dumps(self.mean_reward),
            "factors": self.factors,
        }
        header["digest"] = digest_tensors(self.tensors, *(header[key] for key in _SIGNED))
        write_atomic(folder / FILE, safetensors.torch.save(self.tensors, header))

    @classmethod
    def load(cls, folder: Path) -> LearnerState:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: Missing, truncated or damaged.
        """
        path = folder / FILE
        remedy = "delete this checkpoint: the run resumes from the one before"
        data = read_or(path, lambda error: CheckpointError(f"{path} cannot be read: {error}", remedy))
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if digest_tensors(tensors, *(header[key] for key in _SIGNED)) != header["digest"]:
                raise ValueError("its values do not match the digest stored with them")
            return cls(
                tensors,
                tuple(json.loads(header["python_rng"])),
                int(header["step"]),
                int(header["position"]),
                json.loads(header["mean_reward"]),
                header["factors"],
            )
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is truncated or damaged: {error}", remedy) from error
