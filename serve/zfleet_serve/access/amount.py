"""Amounts of tokens and requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """What requests used.

    Attributes:
        requests: How many there were.
        prompt_tokens: Tokens of prompts.
        completion_tokens: Tokens of answers, also of those that were not finished.
        first_pass_tokens: Tokens that were read to choose who answers.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_pass_tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.first_pass_tokens + other.first_pass_tokens,
        )

    @property
    def tokens(self) -> int:
        """All tokens, which budgets count."""
        return self.prompt_tokens + self.completion_tokens + self.first_pass_tokens
