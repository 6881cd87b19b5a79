"""A prompt with which its choices begin, when a request of completions asks for ``echo``."""

from __future__ import annotations

from zfleet.engine.contract import PromptScores
from zfleet_serve.adaptive.service import Text, Tokens
from zfleet_serve.http.schemas import Prompt
from zfleet_serve.http.spoken import Speech, Spoken


class Echo:
    """One prompt. Nothing predicts its first token, which has no log-probability.

    Args:
        text: The base's tokenizer.
        sent: The prompt as it was sent.
        tokens: Its token ids.

    Attributes:
        text: As it was sent, or what its token ids say; special tokens say nothing.
        spoken: Its tokens; empty until ``take_scores``.
    """

    def __init__(self, text: Text, sent: Prompt, tokens: Tokens) -> None:
        self.spoken: list[Spoken] = []
        self._tokens = tokens
        self._speech = Speech(text.bytes_after(()))
        if isinstance(sent, str):
            self.text = sent
        else:
            self.text = b"".join(map(text.bytes_after(()), tokens)).decode(errors="replace")

    def take_scores(self, scores: PromptScores) -> None:
        """Take the scores of its tokens."""
        others = ((), *scores.top_logprobs) if scores.top_logprobs else ()
        self.spoken = self._speech.say(self._tokens, (None, *scores.logprobs), others)
