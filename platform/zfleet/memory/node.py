"""Memory of this machine: its own, or less if the control group of this process has a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROCESS_BYTES = 512 * 2**20
"""Of a worker that has opened nothing yet, measured: Python, torch, transformers and Ray."""

_ROOT = Path("/")
_MOUNT = Path("sys/fs/cgroup")


@dataclass(frozen=True)
class NodeMemory:
    """What processes of this machine can use.

    Attributes:
        total: All memory, in bytes.
        available: What is free now or could be freed, in bytes.
        limited_by: What sets the total, in words.
    """

    total: int
    available: int
    limited_by: str


@dataclass(frozen=True)
class _Group:
    """The files of one control group, of version 1 or 2."""

    limit: Path
    usage: Path
    statistics: Path
    file_cache: str
    events: Path


def node_memory(root: Path = _ROOT) -> NodeMemory:
    """Read the memory of the machine and the limits of all control groups that this process is in.

    Args:
        root: Where ``proc`` and ``sys`` are; tests write their own.
    """
    machine = _numbers(root / "proc/meminfo")
    found = NodeMemory(machine["MemTotal"] * 1024, machine["MemAvailable"] * 1024, "the machine's memory")
    for group in _groups(root):
        limit = _number(group.limit)
        # Version 1 writes a number near 2^63 where version 2 writes `max`.
        if limit is None or limit >= found.total:
            continue
        # Pages of files that are not in use are freed when memory is needed.
        used = (_number(group.usage) or 0) - _numbers(group.statistics).get(group.file_cache, 0)
        left = max(limit - max(used, 0), 0)
        found = NodeMemory(limit, min(found.available, left), "the limit of its control group")
    return found


def oom_kills(root: Path = _ROOT) -> int:
    """Count how often the kernel has ended a process of this control group, or of the machine, for lack of memory.

    Args:
        root: As of ``node_memory``.
    """
    events = [_numbers(group.events) for group in _groups(root)]
    counts = [found["oom_kill"] for found in events if "oom_kill" in found]
    return counts[0] if counts else _numbers(root / "proc/vmstat").get("oom_kill", 0)


def _groups(root: Path) -> Iterator[_Group]:
    """List the control groups of this process for memory, from its own to the outermost that can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from (_second(folder) for folder in _folders(root / _MOUNT, path))
        elif "memory" in controllers.split(","):
            yield from (_first(folder) for folder in _folders(root / _MOUNT / "memory", path))


def _folders(mount: Path, path: str) -> Iterator[Path]:
    own = mount / path.strip("/")
    for folder in (own, *own.parents):
        # In a container the path may be one of the host's, which is not there: the container's own group is the mount.
        if folder.is_dir():
            yield folder
        if folder == mount:
            return


def _first(folder: Path) -> _Group:
    return _Group(
        folder / "memory.limit_in_bytes",
        folder / "memory.usage_in_bytes",
        folder / "memory.stat",
        "total_inactive_file",
        folder / "memory.oom_control",
    )


def _second(folder: Path) -> _Group:
    return _Group(
        folder / "memory.max",
        folder / "memory.current",
        folder / "memory.stat",
        "inactive_file",
        folder / "memory.events",
    )


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _numbers(file: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines)
    return {part[0].rstrip(":"): int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}
