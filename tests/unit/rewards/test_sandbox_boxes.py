"""The sandbox's boxes: time limits, equal hashes, no process left behind, and a clear error if no box can be made."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from zfleet.errors import SandboxError
from zfleet.rewards.sandbox.exam import Exam, Limits
from zfleet.rewards.sandbox.sandbox import Sandbox


def test_the_reason_of_a_timeout_is_the_time() -> None:
    with Sandbox(Limits(seconds=0.5), ready=1) as hasty:
        verdict = hasty.examine(Exam("import time\ntime.sleep(60)", ("x",), ("x",)))
    assert verdict.reason == "no verdict within 0.5 s"


def test_hashes_are_the_same_in_every_run() -> None:
    code = "def same():\n    return hash('a'), list({'a', 'b', 'c', 'd'})"
    exam = Exam(code, ("same",), ("assert same() == 0",))
    quoting = Exam(code, ("same",), ("raise ValueError(same())",))
    with Sandbox() as sandbox:
        assert not sandbox.examine(exam).passed
        assert sandbox.examine(quoting) == sandbox.examine(quoting)


def test_no_process_is_left_behind_if_its_owner_is_killed(tmp_path: Path) -> None:
    """The boxes end with the process that started them."""
    script = (
        "import os, time\nfrom zfleet.rewards.sandbox.sandbox import Sandbox\n"
        "from zfleet.rewards.sandbox.exam import Exam, Limits\n"
        "sandbox = Sandbox(Limits(60))\nprint('ready', flush=True)\n"
        "sandbox.examine(Exam('while True: pass', ('x',), ('x',)))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        time.sleep(1)
        boxes = psutil.Process(owner.pid).children(recursive=True)
        assert boxes
        os.kill(owner.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(boxes, timeout=20)
        assert not alive
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close() if owner.stdout else None


_VERDICTS = """
import os, sys
from zfleet.rewards.sandbox.exam import Exam
from zfleet.rewards.sandbox.sandbox import Sandbox
codes = ("def f(x): return x", "import os; os._exit(0)", "1 / 0", "def f(x): return 2")
with Sandbox() as sandbox:
    for number in range(int(sys.argv[1])):
        verdict = sandbox.examine(Exam(codes[number % 4], ("f",), ("assert f(1) == 1",)))
        assert verdict.passed is (number % 4 == 0), verdict
print("left:", [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())])
"""
_FIRST = """
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, "-c", *sys.argv[1:]]).wait())
"""
"""An init process that reaps its own child only."""


@pytest.mark.parametrize("verdicts", [12, pytest.param(1000, marks=pytest.mark.drill)])
def test_no_zombie_is_left_if_the_init_process_does_not_reap(verdicts: int) -> None:
    """In a container without an init, zombies stay forever and count against its limit of processes."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("unshare cannot make a process namespace here")
    with _at_most_300_processes() as enter:
        done = subprocess.run(
            [*enter, *namespace, sys.executable, "-c", _FIRST, _VERDICTS, str(verdicts)],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "left: []\n"


@contextmanager
def _at_most_300_processes() -> Iterator[list[str]]:
    """Yield a command that enters a control group with `pids.max` 300; an empty one if no group can be made here."""
    group = next((root / "zfleet-test" for root in map(Path, _PIDS) if os.access(root, os.W_OK)), None)
    if group is None:
        yield []
        return
    group.mkdir()
    try:
        (group / "pids.max").write_text("300")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


_PIDS = ("/sys/fs/cgroup/pids",)
"""The root of process control groups in version 1. Version 2 allows no group beside running processes."""


def test_without_bubblewrap_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="bubblewrap is not installed") as caught:
        Sandbox()
    assert "make sandbox" in caught.value.remedy


def test_unsafe_runs_unboxed_and_warns(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with Sandbox(isolation="unsafe", ready=1) as bare:
        assert bare.examine(Exam("def same(x):\n    return x", ("same",), ("assert same(1) == 1",))).passed
        assert not bare.examine(Exam("def same(x):\n    return x", ("same",), ("assert same(1) == 2",))).passed
    assert "without a sandbox" in caplog.text


def test_the_error_quotes_bubblewraps_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        Sandbox()
