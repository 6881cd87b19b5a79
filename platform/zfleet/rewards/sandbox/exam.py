"""The input and the output of the sandbox: an exam, its limits, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exam:
    """A completion and its tests.

    Attributes:
        code: The completion's program.
        names: The names of the code that the tests use; all other names in them are Python's own.
        tests: Python statements, run one after the other in one namespace. They raise if the code is wrong.
        setup: Statements to run before the tests, for example imports.
    """

    code: str
    names: tuple[str, ...]
    tests: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """The result of an exam.

    Attributes:
        passed: Whether all tests passed; None if nobody can tell, because a value that a test needs cannot cross
            faithfully between its process and the tested code's.
        reason: Which test failed and why, or which value could not cross, for people.
    """

    passed: bool | None
    reason: str


@dataclass(frozen=True)
class Limits:
    """The resources that one verdict may use.

    Attributes:
        seconds: Wall-clock time, and processor time in each box.
        memory: Bytes of address space in each box.
        disk: Bytes of the private file system, which is in memory.
    """

    seconds: float = 5.0
    memory: int = 512 * 2**20
    disk: int = 16 * 2**20
