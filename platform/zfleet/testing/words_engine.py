"""A fake engine for tests of dispatchers: prompts that begin alike have hidden states near each other."""

from __future__ import annotations

import hashlib

import numpy as np

from zfleet.engine.contract import HiddenRequest
from zfleet.testing.fake_engine import FakeEngine, fake_text

HIDDEN = 24
"""Numbers of a hidden state."""


class WordsEngine(FakeEngine):
    """A ``FakeEngine`` whose hidden states are sums of a vector for each word, the first one's twice as long."""

    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        """As ``Engine.hidden_state``."""
        self._check_open()
        text = request.prompt if isinstance(request.prompt, str) else fake_text(request.prompt)
        self._check_fits(request.z_digest, len(request.prompt), 0)
        first, *others = map(_vector, text.split())
        return tuple(np.mean([2 * first, *others], axis=0).tolist())


def _vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(HIDDEN)
