"""The language model of the fake engine: a hash, which a script can replace. Each character of a text is one token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from zfleet.engine.contract import Alternatives
from zfleet.errors import InvalidRequest, ZfleetError

EOS = 0
"""The end-of-sequence token; every other token id is the code point of its character."""

VOCABULARY = (EOS, ord("\n"), *range(32, 127))
"""The tokens that it can sample."""

HIDDEN = 16
"""The width of its hidden states."""

_NEAR = 4
"""A token's hidden state depends on so many tokens, itself included."""

Script = Callable[[str, str], str | None]
"""Maps prompt text and z digest to the answer; None leaves the answer to the hash."""

IDS = np.array(VOCABULARY)
PLACES = {token: place for place, token in enumerate(VOCABULARY)}


def fake_tokens(text: str) -> tuple[int, ...]:
    """Return the token ids of a text."""
    return tuple(map(ord, text))


def fake_text(tokens: tuple[int, ...]) -> str:
    """Return the text of token ids, without the end-of-sequence token."""
    return "".join(chr(token) for token in tokens if token != EOS)


def likeliest(log_probs: np.ndarray, count: int) -> Alternatives:
    """Return so many of the likeliest tokens of log-probabilities [vocabulary]."""
    places = np.argsort(-log_probs, kind="stable")[:count]
    return tuple((int(IDS[place]), float(log_probs[place])) for place in places)


class FakeModel:
    """Next tokens that depend on the z and on every token before them, and hidden states.

    Args:
        script: See ``Script``.
    """

    def __init__(self, script: Script | None) -> None:
        self._script = script

    def log_probs(self, z_digest: str, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> np.ndarray:
        """Log-probabilities [vocabulary] float64 of the next token."""
        logits = _drawn(len(VOCABULARY), z_digest, prompt, tokens)
        scripted = self._scripted(fake_text(prompt), z_digest)
        if scripted is not None:
            token = ord(scripted[len(tokens)]) if len(tokens) < len(scripted) else EOS
            if token not in PLACES:
                raise InvalidRequest(f"the script answers {scripted!r}", "use printable ASCII")
            logits[PLACES[token]] += 50.0
        shifted = logits - logits.max()
        result: np.ndarray = shifted - np.log(np.exp(shifted).sum())
        return result

    def hidden_state(self, z_digest: str, prompt: tuple[int, ...]) -> tuple[float, ...]:
        """Return the mean of the tokens' hidden states: [HIDDEN]. Prompts that have words in common are alike."""
        near = [prompt[max(end - _NEAR, 0) : end] for end in range(1, len(prompt) + 1)]
        states = [_drawn(HIDDEN, z_digest, tokens) for tokens in near]
        return tuple(np.mean(states, axis=0).tolist())

    def _scripted(self, prompt: str, z_digest: str) -> str | None:
        if self._script is None:
            return None
        try:
            return self._script(prompt, z_digest)
        except ZfleetError:
            raise
        except Exception as error:
            message = f"the script failed: {type(error).__name__}: {error}"
            raise InvalidRequest(message, "mend the script that this FakeEngine was given") from error


def _drawn(size: int, *key: object) -> np.ndarray:
    """Draw normal numbers [size] float64 that only the key decides."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(size)
