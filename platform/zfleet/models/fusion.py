"""Which matrices of a Hugging Face model lie in one linear of vLLM's.

vLLM computes q, k and v in one ``qkv_proj``, gate and up in one ``gate_up_proj``, and keeps all other linears of the
supported families under Hugging Face's module paths (``packed_modules_mapping`` of its model files; Phi runs on its
Transformers backend, which fuses q, k and v alike). Phi-3's checkpoints hold both fused already. Every matrix keeps
its own SVD, wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Collection

_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def parts_of(path: str, names: Collection[str]) -> tuple[str, ...]:
    """The Hugging Face matrices whose outputs a linear of vLLM's holds, side by side, in the order of its shards.

    Args:
        path: Module path of a linear in vLLM's model, such as ``model.layers.0.self_attn.qkv_proj``.
        names: All matrices that have factors. A path among them is one matrix, fused in the base itself (Phi-3).

    Returns:
        Module paths in the Hugging Face model. Those not among ``names`` are no targets and keep z = 1.
    """
    parent, _, leaf = path.rpartition(".")
    if path in names or leaf not in _FUSED:
        return (path,)
    return tuple(f"{parent}.{part}" for part in _FUSED[leaf])
