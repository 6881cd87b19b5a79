"""Files of Transformer²'s reference implementation (SakanaAI/self-adaptive-llms), read into z-vectors.

It saves two kinds of file, and each is recognised by its keys, never by its name:

``policy_params``
    The state dict of its module ``Policy`` (``policy/base.py``). The parameters stand in a ``ParameterList``, so that
    keys are ``learnable_params_module_list.0``, ``.1``, ...: places, not names. Place i is the i-th trained weight in
    the order of the base's state dict, which is the order of its modules.
``learnable_params``
    {weight: p}, with keys such as ``model.layers.0.mlp.gate_proj.weight``.

Either holds p [r] of each trained matrix, by default in bfloat16. The matrix that it stands for is (``policy/base.py``
and ``utils.py``)

    W' = U diag(s * mask) Vh * sum(s) / sum(s * mask),    mask = sigmoid(p) * max_mult

so that z = mask * sum(s) / sum(s * mask): the factor ``max_mult`` cancels.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zfleet.errors import InvalidZ
from zfleet.files import read_or
from zfleet.svf.factors import Factors
from zfleet.svf.layout import ZLayout
from zfleet.svf.zvector import ZVector

TARGETS = ("mlp", "attention", "all")
"""What a file may hold. Its own default comes first: by places alone, a file may fit several."""

_GIVE = "give policy_params.pt or learnable_params.pt as the reference implementation saved it"
_OTHER_BASE = "give the base that the file was trained on, whose matrices have the very names in it"
_FLOATING = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_PLACE = re.compile(r"learnable_params_module_list\.(0|[1-9]\d*)")
_LARGEST = 1 << 30
"""Bytes. The largest bases have 60 MB of p; whole models and decompositions are not read to find out that they are."""


@dataclass(frozen=True, eq=False)
class ReferenceFile:
    """The content of one file, before it is put on factors.

    Attributes:
        source: Its path, for errors.
        sha256: Of its bytes.
        kind: ``policy_params`` (by place) or ``learnable_params`` (by name).
        params: {matrix: p [r]}; of ``policy_params`` {place: p [r]}, in order.
    """

    source: str
    sha256: str
    kind: Literal["policy_params", "learnable_params"]
    params: Mapping[str, Tensor]

    def targets_on(self, layouts: Mapping[str, ZLayout]) -> str:
        """Find which targets of a base the file holds: the first whose matrices and ranks are the file's.

        Args:
            layouts: {targets: layout} of the base, such as for ``TARGETS``.

        Raises:
            InvalidZ: None; says what is missing, unknown or of another rank for those that come nearest.
        """
        for targets, layout in layouts.items():
            if self._mismatch(layout) is None:
                return targets
        nearest = min(layouts, key=lambda targets: self._distance(layouts[targets]))
        raise InvalidZ(f"{self.source} fits no matrices of the base. {self._mismatch(layouts[nearest])}", _OTHER_BASE)

    def z_on(self, factors: Factors) -> ZVector:
        """Compute the effective z: mask and rescale folded in, in float64, rounded once to float32.

        The mask is that of the p in the file; what the reference implementation rounds on its way to W' (mask, U, s and
        V to bfloat16) is not imitated.

        Raises:
            InvalidZ: Other matrices or ranks than the factors', a p that is not finite, or a mask that sums to 0.
        """
        if wrong := self._mismatch(factors.layout):
            raise InvalidZ(f"{self.source} does not fit the factors. {wrong}", _OTHER_BASE)
        named = zip(factors.layout.names, self._values(factors.layout), strict=True)
        values = {name: _effective(f"{name} in {self.source}", p, factors.matrices[name].s) for name, p in named}
        return ZVector(values, factors.base, factors.digest, factors.targets)

    def _values(self, layout: ZLayout) -> list[Tensor]:
        """List the values in the layout's order."""
        if self.kind == "policy_params":
            return list(self.params.values())
        return [self.params[name] for name in layout.names]

    def _distance(self, layout: ZLayout) -> int:
        if self.kind == "policy_params":
            return abs(len(self.params) - len(layout.names))
        return len(self.params.keys() ^ set(layout.names))

    def _mismatch(self, layout: ZLayout) -> str | None:
        """Describe the first thing that does not fit, as a sentence; None if all fits."""
        if self.kind == "policy_params" and len(self.params) != len(layout.names):
            return f"It holds {len(self.params)} vectors; nearest are {len(layout.names)} matrices of the base"
        if self.kind == "learnable_params":
            if unknown := [name for name in self.params if name not in layout.names]:
                return f"It holds {_some(unknown)}, unknown there"
            if missing := [name for name in layout.names if name not in self.params]:
                return f"It lacks {_some(missing)}"
        for name, rank, p in zip(layout.names, layout.ranks, self._values(layout), strict=True):
            if p.numel() != rank:
                return f"It holds {p.numel()} values for {name}, which has {rank} singular values"
        return None


def read_reference(path: Path) -> ReferenceFile:
    """Read a file without running anything in it: tensors are all that is taken.

    Raises:
        InvalidZ: Missing, truncated, holding code or other objects, neither of the two kinds, or with a p that is not a
            vector of floating numbers.
    """
    source = str(path)
    if path.is_file() and (size := path.stat().st_size) > _LARGEST:
        raise InvalidZ(f"{source} has {size:,} bytes, more than any expert", _GIVE)
    data = read_or(path, lambda error: InvalidZ(f"{source} cannot be read: {error}", "check the path"))
    content = _tensors(source, _load(source, data))
    if "adaptive_weights" in content:
        raise InvalidZ(
            f"{source} holds a mixture of the reference implementation's experts, not one expert",
            "import the experts it was mixed from, and mix those",
        )
    sha256 = hashlib.sha256(data).hexdigest()
    places = [_PLACE.fullmatch(key) for key in content]
    if all(places):
        numbered = {int(place[1]): p for place, p in zip(places, content.values(), strict=True) if place}
        if sorted(numbered) != list(range(len(content))):
            lost = min(set(range(len(content))) - numbered.keys())
            raise InvalidZ(f"{source} holds no learnable_params_module_list.{lost}", _GIVE)
        return ReferenceFile(source, sha256, "policy_params", {str(n): numbered[n] for n in sorted(numbered)})
    for key in content:
        if not key.endswith(".weight"):
            raise InvalidZ(f"{source} holds {key!r}, which is the name of no weight", _GIVE)
    return ReferenceFile(
        source, sha256, "learnable_params", {key.removesuffix(".weight"): p for key, p in content.items()}
    )


def _effective(name: str, p: Tensor, s: Tensor) -> Tensor:
    """Compute z [r] float32 of p [r] and s [r]."""
    remedy = "the training diverged: import an earlier file of it"
    p, s = p.detach().double(), s.double()
    if not bool(torch.isfinite(p).all()):
        bad = int((~torch.isfinite(p)).sum())
        raise InvalidZ(f"p of {name} holds {bad} values that are NaN or infinite", remedy)
    mask = torch.sigmoid(p)
    mass = (s * mask).sum()
    z = (mask * (s.sum() / mass)).float()
    if not bool(torch.isfinite(z).all()):
        raise InvalidZ(
            f"the mask of {name} leaves {float(mass):.3g} of singular values that sum to {float(s.sum()):.3g}: "
            "no rescale brings them back",
            remedy,
        )
    return z


def _load(source: str, data: bytes) -> object:
    try:
        # torch.load warns of pickles before it refuses them.
        with warnings.catch_warnings(action="ignore"):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: whatever a damaged pickle leads to
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise InvalidZ(f"{source} holds {named[1]}, which is no tensor; nothing of it was run", _GIVE) from error
        # Only its first sentence: the later ones recommend to read the file without this protection.
        reason = f"{type(error).__name__} {error}".splitlines()[0].split(". ")[0].strip()
        raise InvalidZ(f"{source} is truncated, damaged or no file of torch.save: {reason}", _GIVE) from error


def _tensors(source: str, content: object) -> dict[str, Tensor]:
    """Return the file's content, if it is {text: [r] of floating numbers}."""
    if not isinstance(content, dict) or not content:
        raise InvalidZ(f"{source} holds {_kind(content)}, not parameters by name", _GIVE)
    for key, p in content.items():
        plain = isinstance(p, Tensor) and p.layout == torch.strided and p.device.type == "cpu"
        if not isinstance(key, str) or not plain or p.ndim != 1 or p.dtype not in _FLOATING:
            raise InvalidZ(f"{source} holds {_kind(p)} as {key!r}, not a vector of floating numbers", _GIVE)
    return content


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return "nothing" if value == {} else f"a {type(value).__name__}"


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
