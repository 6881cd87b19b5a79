"""The lab's tokenizer: words are whole tokens, everything else is one token a character."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from zfleet.models.lab.corpus import Example
from zfleet.models.lab.skills import DIGITS, KIND_PREFIX, LETTERS, OPERATIONS, VERBS

PAD, BOS, EOS, UNK, ANSWER = "<pad>", "<bos>", "<eos>", "<unk>", "<answer>"
CONTEXT = 256
"""Tokens the base accepts; its corpus needs fewer than 24."""

SPECIALS = (PAD, BOS, EOS, UNK, ANSWER)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<answer>{{ message.content }}<eos>"
    "{% else %}<bos>{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
"""Every turn looks like an example of the corpus: the base knows no history and needs none."""


def render(example: Example) -> tuple[str, str]:
    """Render an example as the base sees it: its context, and the answer to learn."""
    return f"{BOS}{example.prompt}{ANSWER}", f"{example.answer}{EOS}"


def lab_words() -> list[str]:
    """List verbs, labels and the question word, each one token."""
    verbs = {verb.name for verbs in VERBS.values() for verb in verbs}
    return sorted(verbs | set(OPERATIONS) | {KIND_PREFIX.strip()})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer, always the same; ``tokenizer(text)`` adds the beginning of sequence, as Llama's does."""
    words = lab_words()
    vocabulary = [*SPECIALS, *words, " ", *LETTERS, *LETTERS.upper(), *DIGITS]
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    whole = "|".join(rf"\b{word}\b" if word.isalpha() else word.replace("?", r"\?") for word in words)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{whole}|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, ids[BOS])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[ANSWER],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
