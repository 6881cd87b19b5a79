"""What Ray says of an error, as part of a message of ours."""

from __future__ import annotations


def on_one_line(error: BaseException) -> str:
    """All lines of an error's text in one; its type where it has none.

    Ray's first line may say nothing ("The cluster was started with:"): what matters stands in any of them.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    told, *rest = lines
    for line in rest:
        told += f" {line}" if told.endswith((":", ".", ",", ";")) else f"; {line}"
    return told
