"""The architectures of GGUF files that become bases, and what each does to a model's weights.

Source: the conversion scripts of llama.cpp, whose changes are undone here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One ``general.architecture``.

    Attributes:
        name: In GGUF.
        model_type: In config.json.
        eps: {key of the norms' epsilon: field of the config}.
        interleaved: The rows of q and k are reordered: the two halves that rotary embeddings pair stand in turns.
        norm_offset: Added to the weights of norms in the file.
        head_dim: The config has a field for the size of a head; otherwise it is hidden size / heads.
        biases: The config says whether attention has biases.
        partial_rotary: A part of each head may be rotated.
    """

    name: str
    model_type: str
    eps: tuple[str, str] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    interleaved: bool = False
    norm_offset: float = 0.0
    head_dim: bool = False
    biases: bool = False
    partial_rotary: bool = False


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture("llama", "llama", interleaved=True, head_dim=True, biases=True),
        Architecture("qwen2", "qwen2"),
        Architecture("qwen3", "qwen3", head_dim=True, biases=True),
        Architecture("gemma", "gemma", norm_offset=1.0, head_dim=True),
        Architecture("phi2", "phi", eps=("attention.layer_norm_epsilon", "layer_norm_eps"), partial_rotary=True),
        Architecture("phi3", "phi3", partial_rotary=True),
    )
}
"""By name. Files of Mistral models say ``llama``: the same function, without a sliding window."""
