"""Whether programs can be graded on this machine."""

from __future__ import annotations

import subprocess

from zfleet.errors import SandboxError
from zfleet.rewards.sandbox.sandbox import Sandbox
from zfleet.rewards.sandbox.syscalls import refusals


def look_at_sandbox() -> str:
    """For people: what a box is made of here, or why there is none and what to do about it."""
    try:
        with Sandbox(ready=1):
            version = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    except SandboxError as error:
        return f"no: {error.message} ({error.remedy})"
    return f"yes: {version}, {'with' if refusals() else 'without'} libseccomp"
