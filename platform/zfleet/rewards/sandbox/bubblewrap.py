"""The box around one process: new namespaces, and from the host's files only the interpreter and its library."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from zfleet.errors import SandboxError
from zfleet.rewards.sandbox.exam import Limits
from zfleet.rewards.sandbox.syscalls import refusals

_PLACE = Path("/box")
_REMEDY = "run `make sandbox`, which installs it if the system allows; docs/sandbox.md has the requirements"


def bare(program: str) -> list[str]:
    """Return the command that runs a program of ``inside`` without a box."""
    return [str(_interpreter()), *_run(program, _inside().parent)]


def boxed(program: str, limits: Limits) -> list[str]:
    """Return the command that runs a program of ``inside`` in its own box.

    Raises:
        SandboxError: Bubblewrap is not installed.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SandboxError("bubblewrap is not installed: code that a model wrote cannot be run", _REMEDY)
    if os.geteuid() == 0 and not refusals():
        raise SandboxError("as root, the sandbox needs libseccomp, which is not installed", _REMEDY)
    options = [
        "--unshare-all",
        "--unshare-user",
        *("--uid", "65534", "--gid", "65534", "--hostname", "box", "--cap-drop", "ALL"),
        # The program is the first process of its namespace: all others end with it, and bubblewrap reaps it.
        *("--as-pid-1", "--die-with-parent", "--new-session"),
    ]
    for path in _readable():
        options += ["--ro-bind", str(path), str(path)]
    for path in _hidden():
        options += ["--tmpfs", str(path), "--remount-ro", str(path)]
    options += [
        *("--ro-bind", str(_inside()), str(_PLACE / _inside().name)),
        *("--dev-bind", "/dev/null", "/dev/null"),
        *("--size", str(limits.disk), "--tmpfs", "/tmp"),
        *("--remount-ro", "/", "--chdir", "/tmp", "--"),
    ]
    return [bubblewrap, *options, str(_interpreter()), *_run(program, _PLACE)]


@cache
def _inside() -> Path:
    """Return the folder of the programs, compiled if it is writable: compiling in each box adds half to its start."""
    folder = Path(__file__).with_name("inside")
    compileall.compile_dir(folder, quiet=2)
    return folder


def _run(program: str, place: Path) -> list[str]:
    # The flags of -I one by one, without -E: the hash seed comes from the environment.
    start = f"import sys; sys.path.insert(0, {str(place)!r}); from inside.{program} import main; main()"
    return ["-s", "-S", "-B", "-P", "-X", "utf8", "-c", start]


def _interpreter() -> Path:
    """Return the interpreter below the virtual environment, so that no installed package is visible."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


@cache
def _readable() -> Sequence[Path]:
    """Return the interpreter, its standard library, and the shared libraries that both need."""
    library = Path(sysconfig.get_path("stdlib"))
    extensions = sorted((library / "lib-dynload").glob("*.so"))
    shared = dict.fromkeys(path for file in (_interpreter(), *extensions) for path in _needed(file))
    return [_interpreter(), library, *(path for path in shared if not path.is_relative_to(library))]


@cache
def _hidden() -> Sequence[Path]:
    """Return the folders of installed packages inside the standard library's folder."""
    library = Path(sysconfig.get_path("stdlib"))
    return [path for path in (library / "site-packages", library / "dist-packages") if path.is_dir()]


def _needed(file: Path) -> Iterator[Path]:
    done = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if match := re.search(r"(/\S+) \(0x", line):
            yield Path(match[1])
