"""How a benchmark that cannot run says so."""

from __future__ import annotations

import sys
from collections.abc import Callable

from zfleet.errors import ZfleetError


def exit_code(benchmark: Callable[[], None]) -> int:
    """Run it: 0, or 1 after an error for people."""
    try:
        benchmark()
    except ZfleetError as error:
        print(f"error: {error.message}\nremedy: {error.remedy}", file=sys.stderr)
        return 1
    return 0
