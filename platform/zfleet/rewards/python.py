"""Rewards that a user writes as a Python function and names in the spec."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from operator import attrgetter
from pathlib import Path
from typing import Any

from zfleet.errors import NotThisTask, RewardError, SpecError
from zfleet.tasks.task import Grade, Sample

_REMEDY = "write it as module:function, with the module installed or in the folder where the job is started"


@dataclass(frozen=True)
class PythonReward:
    """Calls a user's ``function(completion: str, sample: Sample)``, plain or async.

    The function returns a finite number or a ``Grade``; None if the sample does not belong to its task, which leaves
    the sample out.

    Attributes:
        name: ``module:function``.
        function: The function itself if it is resolved already (a job sends it to its workers).

    Raises:
        SpecError: On the first call, if the name leads to no function.
        RewardError: The function raised, or returned no finite number.
        NotThisTask: The function returned None.
    """

    name: str
    function: Callable[[str, Sample], object] | None = field(default=None, repr=False, compare=False)

    def __call__(self, completion: str, sample: Sample) -> Grade:
        try:
            value = self.resolved()(completion, sample)
            if inspect.iscoroutine(value):
                value = asyncio.run_coroutine_threadsafe(value, _loop()).result()
        except SpecError:
            raise
        except Exception as error:
            raise self._error(sample, f"raised {type(error).__name__}: {error}") from error
        if value is None:
            raise NotThisTask(f"reward {self.name} returned None: sample {sample.id} does not belong to its task")
        grade = value if isinstance(value, Grade) else None
        if grade is not None:
            value = grade.value
        if not isinstance(value, Real):
            raise self._error(sample, f"returned {_short(repr(value))}, which is not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._error(sample, f"returned {_short(repr(value))}, which is not finite")
        return Grade(number, reason=f"{self.name} gives {number:g}") if grade is None else grade

    @property
    def waits(self) -> bool:
        """Whether the function is async, so that many calls can wait together."""
        return inspect.iscoroutinefunction(self.resolved())

    def resolved(self) -> Callable[[str, Sample], object]:
        """Return the function, imported on the first call.

        Raises:
            SpecError: The name leads to no function.
        """
        return self.function or resolve(self.name)

    def _error(self, sample: Sample, reason: str) -> RewardError:
        return RewardError(
            f"reward {self.name} on sample {sample.id} ({_short(sample.prompt)!r}) {reason}",
            "correct the function; in training, reward.on_error: skip leaves such samples out",
        )


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all async rewards. They share one, so that they can share clients and sessions."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="zfleet-rewards", daemon=True).start()
    return loop


def resolve(name: str) -> Any:
    """Import the function that ``module:function`` names, from anywhere on the path or from the current folder.

    Raises:
        SpecError: The name has another form, there is no such module or function, or the module fails to import.
    """
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise SpecError(f"reward.value is {name!r}, which names no function", _REMEDY)
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        # The zfleet command does not search the current folder by itself. The folder goes last, so that no file in it
        # can shadow an installed module.
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise SpecError(f"reward.value is {name!r}: importing {module_name} fails with {reason}", _REMEDY) from error
    try:
        function = attrgetter(attribute)(module)
    except AttributeError:
        where = getattr(module, "__file__", None) or module_name
        raise SpecError(f"reward.value is {name!r}: {where} has no {attribute!r}", _REMEDY) from None
    if not callable(function):
        raise SpecError(f"reward.value is {name!r}: that is a {type(function).__name__}, not a function", _REMEDY)
    return function


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
