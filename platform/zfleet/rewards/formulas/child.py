"""The process that compares formulas: on a model's text, math-verify can take forever or use all memory."""

from __future__ import annotations

import logging
import os
import resource

from zfleet.rewards.sandbox.inside.messages import READY, receive, send

_MEMORY = 2 * 2**30


def main() -> None:
    """Answer requests from standard input until it closes."""
    logging.disable(logging.WARNING)
    replies = os.dup(1)
    os.dup2(2, 1)
    from zfleet.rewards.formulas.equal import equal, read_both

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    send(replies, READY)

    while True:
        try:
            request = receive(0)
        except EOFError:
            return
        _limit_time(request["seconds"])
        try:
            formulas = read_both(request["gold"], request["answer"], request["match"])
            right = equal(formulas, request["precision"], request["sets"])
            reply = {"right": right, "answer": str(formulas.answer[-1]) if formulas.answer else None}
        except (RecursionError, MemoryError) as error:
            reply = {"right": False, "answer": None, "error": type(error).__name__}
        send(replies, reply)


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process if a request takes longer: the process that asked may be gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


if __name__ == "__main__":
    main()
