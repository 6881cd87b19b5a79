"""What is asked of the sandbox, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exam:
    """A completion and its tests.

    Attributes:
        code: What the model wrote, as a program.
        names: What of the code the tests use; all else that they name is Python's own.
        tests: Python statements, run one after the other in one namespace; they raise where the code is wrong.
        setup: Statements before the tests, imports for example.
    """

    code: str
    names: tuple[str, ...]
    tests: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether all tests held.

    Attributes:
        passed: They did; None where nobody can tell, because something that a test needs cannot cross faithfully
            between its process and the tested code's.
        reason: Which did not and why, or what could not cross, for people.
    """

    passed: bool | None
    reason: str


@dataclass(frozen=True)
class Limits:
    """What one verdict may use.

    Attributes:
        seconds: Of wall-clock time, and of processor time in each box.
        memory: Bytes of address space in each box.
        disk: Bytes of the private file system, which is in memory.
    """

    seconds: float = 5.0
    memory: int = 512 * 2**20
    disk: int = 16 * 2**20
