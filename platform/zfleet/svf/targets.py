"""Which matrices of a base are decomposed."""

from __future__ import annotations

import re

from torch import nn

from zfleet.errors import SpecError

PRESETS = {
    "attention": r".*\.(self_attn|attention|attn)\.\w+",
    "mlp": r".*\.(mlp|feed_forward)\.\w+",
    "all": r".*\.(self_attn|attention|attn|mlp|feed_forward)\.\w+",
}


def target_names(model: nn.Module, targets: str) -> list[str]:
    """Module paths of the linears that ``targets`` selects, in the order of the model.

    Args:
        model: The base.
        targets: ``mlp``, ``attention``, ``all`` or a regular expression over whole module paths.

    Raises:
        SpecError: The expression is invalid, or nothing matches.
    """
    try:
        pattern = re.compile(PRESETS.get(targets, targets))
    except re.error as error:
        raise SpecError(
            f"targets {targets!r} is no regular expression: {error}", f"use one of {', '.join(PRESETS)} or a pattern"
        ) from error
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name in linears if pattern.fullmatch(name)]
    if not names:
        raise SpecError(
            f"targets {targets!r} matches none of the base's {len(linears)} linear layers",
            f"they are named like {', '.join(linears[:3])}",
        )
    return names
