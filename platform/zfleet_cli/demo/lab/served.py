"""Ask the demo's service over HTTP, with the unchanged OpenAI client."""

from __future__ import annotations

import socket
from typing import Any

from openai import OpenAI
from rich.console import Console

PROMPTS = (
    ("{base}", "flip bca"),
    ("{base}:reverse", "flip bca"),
    ("{base}:auto", "combine 12 7"),
    ("{base}:exam-mix", "arrange dac"),
)
"""Models and prompts: the base, an expert, the two-pass model, and a mixture found by search."""


def ask_service(url: str, base: str) -> list[dict[str, Any]]:
    """Ask each model of ``PROMPTS``, and return the answers with the experts and the time of each pass."""
    client = OpenAI(base_url=f"{url}/v1", api_key="not-needed", max_retries=0)
    served = []
    for template, prompt in PROMPTS:
        model = template.format(base=base)
        completion = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=8
        )
        details: dict[str, Any] = completion.model_dump()["zfleet"]
        served.append(
            {
                "model": model,
                "prompt": prompt,
                "answer": completion.choices[0].message.content,
                "answered_by": details["model"],
                "mixture": details["mixture"],
                "dispatch": details["dispatch"],
                "first_pass_ms": details["first_pass_ms"],
                "second_pass_ms": details["second_pass_ms"],
            }
        )
    return served


def free_port(preferred: int = 8000) -> int:
    """Return the preferred port if it is free, otherwise any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on the loopback interface")


def print_usage(console: Console, url: str, base: str) -> None:
    """Print how to ask the running service."""
    curl = (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"model": "{base}:auto", "messages": [{{"role": "user", "content": "flip bca"}}]}}\''
    )
    python = (
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="not-needed")\n'
        f'answer = client.chat.completions.create(model="{base}:auto", '
        'messages=[{"role": "user", "content": "flip bca"}])\n'
        "print(answer.choices[0].message.content)"
    )
    for snippet in (f"\nThe service is up at {url}/v1. Ctrl-C stops it.\n", curl, "", python):
        console.print(snippet, highlight=False, markup=False, soft_wrap=True)
