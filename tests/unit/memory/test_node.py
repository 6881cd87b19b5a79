"""Memory of the machine and the limits of control groups, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from zfleet.memory.node import node_memory, oom_kills

GIB = 2**30


class Root:
    """A root with ``proc`` and ``sys`` of a test."""

    def __init__(self, path: Path, group: str, total: int = 64, available: int = 40) -> None:
        self.path = path
        self.write(
            "proc/meminfo", f"MemTotal: {total * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {available * 2**20} kB\n"
        )
        self.write("proc/vmstat", "nr_free_pages 7\noom_kill 5\n")
        self.write("proc/self/cgroup", group)

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def second(self, folder: str, limit: object, used: int = 0, cached: int = 0, kills: int = 0) -> None:
        """Write a group of version 2."""
        place = f"sys/fs/cgroup/{folder}".rstrip("/")
        self.write(f"{place}/memory.max", f"{limit}\n")
        self.write(f"{place}/memory.current", f"{used}\n")
        self.write(f"{place}/memory.stat", f"anon 3\ninactive_file {cached}\n")
        self.write(f"{place}/memory.events", f"low 0\noom 1\noom_kill {kills}\n")


def test_without_groups_the_machine_decides(tmp_path: Path) -> None:
    root = Root(tmp_path, "")
    found = node_memory(root.path)
    assert (found.total, found.available) == (64 * GIB, 40 * GIB)
    assert oom_kills(root.path) == 5


def test_the_smallest_limit_of_version_2_decides_and_file_pages_are_free(tmp_path: Path) -> None:
    root = Root(tmp_path, "0::/jobs/mine\n")
    root.second("jobs/mine", "max", kills=2)
    root.second("jobs", 8 * GIB, used=5 * GIB, cached=2 * GIB)
    found = node_memory(root.path)
    assert (found.total, found.available) == (8 * GIB, 5 * GIB)
    assert found.limited_by == "the limit of its control group"
    assert oom_kills(root.path) == 2


def test_in_a_container_the_groups_path_is_the_mount(tmp_path: Path) -> None:
    root = Root(tmp_path, "0::/not/seen/here\n")
    root.second("", 3 * GIB, used=GIB)
    assert node_memory(root.path).total == 3 * GIB
    assert node_memory(root.path).available == 2 * GIB


@pytest.mark.parametrize(("limit", "total"), [(9223372036854771712, 64 * GIB), (6 * GIB, 6 * GIB)])
def test_version_1_writes_a_huge_number_for_no_limit(tmp_path: Path, limit: int, total: int) -> None:
    root = Root(tmp_path, "5:cpu,cpuacct:/a\n4:memory:/box\n1:name=systemd:/\n")
    root.write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{limit}\n")
    root.write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{4 * GIB}\n")
    root.write("sys/fs/cgroup/memory/box/memory.stat", f"cache 1\ntotal_inactive_file {GIB}\n")
    root.write("sys/fs/cgroup/memory/box/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    found = node_memory(root.path)
    assert found.total == total
    assert found.available == (40 * GIB if total == 64 * GIB else 3 * GIB)
    assert oom_kills(root.path) == 1


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = Root(tmp_path, "0::/x\n")
    root.second("x", GIB, used=2 * GIB)
    assert node_memory(root.path).available == 0


def test_this_machine_can_be_read() -> None:
    found = node_memory()
    assert 0 < found.available <= found.total <= psutil.virtual_memory().total
    assert oom_kills() >= 0
