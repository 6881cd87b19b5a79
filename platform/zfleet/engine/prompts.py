"""Prompts as token ids, and the checks that every engine with a tokenizer makes before it accepts a request."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from zfleet.engine.contract import ChoicesRequest, GenerationRequest, HiddenRequest, PromptRequest, refuse_images
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
            InvalidRequest: The prompt is empty, or the request has a token outside the vocabulary, or its images cannot
                be read or do not match its image tokens.
            RequestTooLong: Prompt and ``max_tokens`` do not fit.
        """
        prompt, sampling = self._prompt(request), request.sampling
        self._check_length(len(prompt), sampling.max_tokens, "max_tokens")
        self._check_vocabulary(tuple(token for token, _ in sampling.logit_bias), "logit_bias")
        self._check_vocabulary(sampling.stop_token_ids, "stop_token_ids")
        return prompt

    def choices(self, request: ChoicesRequest) -> tuple[Tokens, tuple[Tokens, ...]]:
        """Return token ids of the prompt and of each completion.

        Raises:
            InvalidRequest: As in ``generation``, or a completion has no tokens.
            RequestTooLong: The prompt and a completion do not fit.
        """
        prompt = self._prompt(request)
        completions = tuple(
            tuple(self.tokenizer(completion, add_special_tokens=False)["input_ids"])
            if isinstance(completion, str)
            else completion
            for completion in request.completions
        )
        for place, completion in enumerate(completions):
            name = request.name(place)
            if not completion:
                raise InvalidRequest(f"{name} has no tokens", "give at least one token")
            self._check_length(len(prompt), len(completion), name)
            self._check_vocabulary(completion, name)
        return prompt, completions

    def reading(self, request: HiddenRequest | PromptRequest) -> Tokens:
        """Return the token ids of a prompt that is only read, as ``generation``.

        Raises:
            InvalidRequest: As in ``generation``.
            RequestTooLong: The prompt leaves no room for an answer of one token.
        """
        prompt = self._prompt(request)
        self._check_length(len(prompt), 1, "an answer")
        return prompt

    def _prompt(self, request: GenerationRequest | ChoicesRequest | HiddenRequest | PromptRequest) -> Tokens:
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
        room = self.max_length - prompt
        if rest > room:
            raise RequestTooLong(
                f"the prompt has {prompt} tokens and {what} {rest}: together more than the {self.max_length} that fit",
                "shorten the prompt" + (f", or let {what} be at most {room}" if room > 0 else ""),
            )
