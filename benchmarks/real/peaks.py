"""The memory of a training on a pretrained base: its driver's and its worker's, as ``zfleet train`` starts them."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from real.memory import proportional_bytes
from real.settings import Settings
from zfleet.errors import ZfleetError

SPEC = Path(__file__).parents[2] / "jobs" / "specs" / "arc-smollm2.yaml"

_STEPS = 2
"""The second one has all that a longer training has: the optimizer's state, and z-vectors that came and went."""

_TESTED = 64
"""Prompts of each evaluation: as many as there are slots."""

_EVERY_SECONDS = 0.1


def peaks(settings: Settings) -> dict[str, Any]:
    """Return the most memory (PSS) of the driver and of any worker process: ``driver_peak_gib``, ``learner_peak_gib``.

    Raises:
        ZfleetError: The training failed, or no worker of it was seen.
    """
    settings.tell(f"peaks: {_STEPS} steps of {SPEC.name}")
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        changes = {
            "learner.steps": _STEPS,
            "eval_samples": _TESTED,
            "storage": f"{folder}/runs",
            "registry": f"sqlite:///{folder}/registry.db",
            # Without a folder the rows come from the hub.
            "experts.0.task.data": "null" if settings.arc is None else settings.arc.resolve(),
        }
        command = [str(Path(sys.executable).with_name("zfleet")), "train", str(SPEC)]
        command += [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
        with psutil.Popen(command, stdout=log, stderr=log) as driver:
            try:
                most = _watch(driver)
            finally:
                if driver.poll() is None:  # the benchmark was stopped
                    driver.terminate()
        log.seek(0)
        if driver.returncode or not most["worker"]:
            raise ZfleetError(f"{' '.join(command)} did not train: {log.read()[-2000:]}", "run this command by itself")
    what = f"GiB at most of {{}} (PSS, mapped files included), {SPEC.name}"
    return {
        "learner_peak_gib": {"median": most["worker"] / 2**30, "ratio": what.format("the worker")},
        "driver_peak_gib": {"median": most["driver"] / 2**30, "ratio": what.format("the driver")},
    }


def _watch(driver: psutil.Popen) -> dict[str, int]:
    """Look at a command and Ray's workers below it until it ends."""
    most = {"driver": 0, "worker": 0}
    while driver.poll() is None:
        # Any of them may end while it is looked at.
        with suppress(psutil.NoSuchProcess):
            most["driver"] = max(most["driver"], proportional_bytes(driver.pid))
            for process in driver.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if process.name().startswith("ray::"):
                        most["worker"] = max(most["worker"], proportional_bytes(process.pid))
        time.sleep(_EVERY_SECONDS)
    return most
