"""The defaults of tasks on public datasets: prompt, reward and length of answers.

The prompts follow the paper's (arXiv 2501.06252, appendix): they ask for a chain of thought with the answer in a fixed
place, and for code, for one fenced program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

DatasetName = Literal[
    "gsm8k", "math", "mbpp", "mbpp_sanitized", "humaneval", "arc_easy", "arc_challenge", "okvqa", "classify"
]

_STEPS = "Think step by step."
_PROGRAM = "Answer with the whole program in one fenced block of Python."
_MBPP = {
    "prompt": "{problem}\n\nThe program must pass these tests:\n```python\n{tests}\n```\n\n" + _PROGRAM,
    "reward": {"kind": "program"},
    "max_tokens": 512,
}
_ARC = {
    "prompt": "{question}\n\n{choices}\n\n" + _STEPS + " End with `The answer is` and one of {labels}.",
    "reward": {"kind": "choice"},
    "max_tokens": 256,
}

DEFAULTS: Mapping[DatasetName, Mapping[str, Any]] = {
    "gsm8k": {
        "prompt": "{question}\n\n" + _STEPS + " End with a line of `####` and the answer, one number.",
        "reward": {"kind": "number"},
        "max_tokens": 512,
    },
    "math": {
        "prompt": "{problem}\n\n" + _STEPS + " Put the answer into \\boxed{{}}.",
        "reward": {"kind": "math"},
        "max_tokens": 1024,
    },
    "mbpp": _MBPP,
    "mbpp_sanitized": _MBPP,
    "humaneval": {
        "prompt": "Complete this program:\n```python\n{problem}```\n\n" + _PROGRAM,
        "reward": {"kind": "program"},
        "max_tokens": 512,
    },
    "arc_easy": _ARC,
    "arc_challenge": _ARC,
    # LLaVA was trained with this form for short answers (arXiv 2310.03744).
    "okvqa": {
        "prompt": "{question}\nAnswer the question using a single word or phrase.",
        "reward": {"kind": "soft"},
        "max_tokens": 16,
    },
    "classify": {
        "prompt": "Which skill does this request need most: {labels}?\n\nRequest:\n{question}\n\n"
        "Answer with one of these words in \\boxed{{}}.",
        "reward": {"kind": "boxed"},
        "max_tokens": 32,
    },
}
"""For each dataset, the default values of a task's keys."""
