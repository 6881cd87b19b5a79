"""Experts in the formats of other programs: LoRA adapters, whole checkpoints, safetensors files; out and in."""
