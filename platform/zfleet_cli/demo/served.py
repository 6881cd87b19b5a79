"""Real answers over HTTP, asked with the unchanged OpenAI client."""

from __future__ import annotations

import socket
from typing import Any

from openai import OpenAI

PROMPTS = (
    ("{base}", "flip bca"),
    ("{base}:reverse", "flip bca"),
    ("{base}:auto", "combine 12 7"),
    ("{base}:exam-mix", "arrange dac"),
)
"""Model and prompt: the base, an expert, the two-pass model and a mixture found by search."""


def ask_service(url: str, base: str) -> list[dict[str, Any]]:
    """Ask the served model; each answer says who gave it and how long each pass took."""
    client = OpenAI(base_url=f"{url}/v1", api_key="not-needed", max_retries=0)
    served = []
    for template, prompt in PROMPTS:
        model = template.format(base=base)
        completion = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=8
        )
        told: dict[str, Any] = completion.model_dump()["zfleet"]
        served.append(
            {
                "model": model,
                "prompt": prompt,
                "answer": completion.choices[0].message.content,
                "answered_by": told["model"],
                "mixture": told["mixture"],
                "dispatch": told["dispatch"],
                "first_pass_ms": told["first_pass_ms"],
                "second_pass_ms": told["second_pass_ms"],
            }
        )
    return served


def free_port(preferred: int = 8000) -> int:
    """The preferred port where it is free, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on the loopback interface")
