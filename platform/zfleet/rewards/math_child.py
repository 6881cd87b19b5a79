"""The process that compares formulas: math-verify can take for ever, or all memory, on what a model writes."""

from __future__ import annotations

import logging
import os
import resource
from typing import Any

from zfleet.rewards.sandbox.inside.messages import READY, receive, send

_MEMORY = 2 * 2**30


def main() -> None:
    """Answer requests on standard input until it ends."""
    logging.disable(logging.WARNING)
    replies = os.dup(1)
    os.dup2(2, 1)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = {"latex": LatexExtractionConfig(boxed_match_priority=0), "expr": ExprExtractionConfig()}
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    send(replies, READY)

    def read(text: str, kinds: list[str]) -> Any:
        wanted = [configs[kind] for kind in kinds]
        # Limits of its own would need signals, which only a main thread gets; whoever asks has a clock.
        found = parse(text, wanted, parsing_timeout=None)
        return found or parse(f"${text}$", wanted, parsing_timeout=None)

    while True:
        try:
            request = receive(0)
        except EOFError:
            return
        _limit_time(request["seconds"])
        try:
            gold, answer = (read(request[part], request["match"]) for part in ("gold", "answer"))
            right = verify(
                gold,
                answer,
                float_rounding=request["precision"],
                allow_set_relation_comp=request["sets"],
                timeout_seconds=None,
            )
            reply = {"right": bool(right), "answer": str(answer[-1]) if answer else None}
        except (RecursionError, MemoryError) as error:
            reply = {"right": False, "answer": None, "error": type(error).__name__}
        send(replies, reply)


def _limit_time(seconds: float) -> None:
    """End when a request takes longer: who asked may be gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


if __name__ == "__main__":
    main()
