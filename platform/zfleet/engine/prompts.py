"""Prompts as token ids, and the checks that every engine with a tokenizer makes before it accepts a request."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from zfleet.engine.contract import GenerationRequest, ScoreRequest, refuse_images
from zfleet.errors import InvalidRequest, RequestTooLong
from zfleet.models.images import ImageReader
from zfleet.models.tokens import text_tokens

Tokens = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Turns prompts into token ids and refuses requests that cannot run.

    Attributes:
        tokenizer: The tokenizer of the base.
        vocabulary: Entries of the base's embedding.
        max_length: The longest prompt and answer together, in tokens.
        reader: Reads images; None if requests may have none.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: int
    max_length: int
    reader: ImageReader | None = None

    def generation(self, request: GenerationRequest) -> Tokens:
        """Return the prompt's token ids, with as many places for each image as it takes.

        Raises:
            InvalidRequest: The prompt is empty or has a token outside the vocabulary, or its images cannot be read or
                do not match its image tokens.
            RequestTooLong: Prompt and ``max_tokens`` do not fit.
        """
        prompt = self._prompt(request)
        self._check_length(len(prompt), request.sampling.max_tokens, "max_tokens")
        return prompt

    def score(self, request: ScoreRequest) -> tuple[Tokens, Tokens]:
        """Return token ids of the prompt and of the completion, which may be empty.

        Raises:
            InvalidRequest, RequestTooLong: As in ``generation``.
        """
        prompt, completion = self._prompt(request), request.completion
        if isinstance(completion, str):
            completion = tuple(self.tokenizer(completion, add_special_tokens=False)["input_ids"])
        self._check_length(len(prompt), len(completion), "the completion")
        self._check_vocabulary(completion, "the completion")
        return prompt, completion

    def _prompt(self, request: GenerationRequest | ScoreRequest) -> Tokens:
        prompt, images = request.prompt, request.images
        tokens = text_tokens(self.tokenizer, prompt) if isinstance(prompt, str) else prompt
        if not tokens:
            raise InvalidRequest("the prompt is empty", "give at least one token")
        self._check_vocabulary(tokens, "the prompt")
        if self.reader is not None:
            return self.reader.spread(tokens, images)
        refuse_images(images)
        return tokens

    def _check_vocabulary(self, tokens: Tokens, what: str) -> None:
        unknown = next((token for token in tokens if not 0 <= token < self.vocabulary), None)
        if unknown is not None:
            raise InvalidRequest(
                f"{what} has token {unknown}, the vocabulary has {self.vocabulary} entries",
                "encode it with this base's tokenizer",
            )

    def _check_length(self, prompt: int, rest: int, what: str) -> None:
        if prompt + rest > self.max_length:
            raise RequestTooLong(
                f"the prompt has {prompt} tokens and {what} {rest}: together more than the {self.max_length} that fit",
                f"shorten the prompt, or let {what} be at most {max(self.max_length - prompt, 0)}",
            )
