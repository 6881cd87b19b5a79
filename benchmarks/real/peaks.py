"""The memory of a training on a pretrained base: its driver's and its worker's, as ``zfleet train`` starts them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
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
        ZfleetError: The training failed.
    """
    settings.tell(f"peaks: {_STEPS} steps of {SPEC.name}")
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"learner.steps={_STEPS}", f"eval_samples={_TESTED}", f"storage={folder}/runs"]
        changes += [f"registry=sqlite:///{folder}/registry.db"]
        if settings.arc is not None:
            changes.append(f"experts.0.task.data={settings.arc.resolve()}")
        else:
            changes.append("experts.0.task.data=null")
        command = [str(Path(sys.executable).with_name("zfleet")), "train", str(SPEC)]
        for change in changes:
            command += ["--set", change]
        with (Path(folder) / "log").open("w+") as log:
            with subprocess.Popen(command, stdout=log, stderr=log) as driver:
                most = _watch(driver)
            if driver.returncode:
                log.seek(0)
                raise ZfleetError(f"the training failed: {log.read()[-2000:]}", "mend what it says")
    what = f"GiB at most of {{}} (PSS, mapped files included), {SPEC.name}"
    return {
        "learner_peak_gib": {"median": most["worker"] / 2**30, "ratio": what.format("the worker")},
        "driver_peak_gib": {"median": most["driver"] / 2**30, "ratio": what.format("the driver")},
    }


def _watch(driver: subprocess.Popen[bytes]) -> dict[str, int]:
    """Look at a command and Ray's workers below it until it ends."""
    most = {"driver": 0, "worker": 0}
    command = psutil.Process(driver.pid)
    while driver.poll() is None:
        for process in (command, *command.children(recursive=True)):
            try:
                name = "driver" if process == command else "worker"
                if name == "driver" or "".join(process.cmdline()[:1]).startswith("ray::"):
                    most[name] = max(most[name], proportional_bytes(process.pid))
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        time.sleep(_EVERY_SECONDS)
    return most
