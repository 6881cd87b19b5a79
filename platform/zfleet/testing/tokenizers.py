"""Small tokenizers of the kinds that bases have, made without files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from zfleet.models.lab.tokenizer import build_tokenizer

_MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©"), ("â", "Ĥ"))
_WORDS = ("▁", "▁the", "▁a", "▁▁", "the", "a", "b", "é", "日", ".", "\u2028")
_PIECES = ("[UNK]", "the", "a", "##b", "##ing", ".", "日", "##é")


def byte_level() -> PreTrainedTokenizerFast:
    """Make one like GPT-2's: tokens are byte sequences, also half characters; one token was added by hand."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in _MERGES)]
    ids = {symbol: place for place, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(ids, list(_MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("  日", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """Make one like Llama's: words carry the space before them, and unknown words are spelled in bytes."""
    symbols = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    ids = {symbol: place for place, symbol in enumerate(symbols)}
    merges = [("▁", "a"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def metaspace() -> PreTrainedTokenizerFast:
    """Make one with whole words that carry the space before them, and no bytes."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(_WORDS)}, unk_token="▁"))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    """Make one like BERT's: a word's first piece implies a space before it, punctuation does not."""
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(_PIECES)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


TOKENIZERS: Mapping[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": byte_level,
    "byte-fallback": byte_fallback,
    "metaspace": metaspace,
    "word-piece": word_piece,
    "lab": build_tokenizer,
}
"""One tokenizer of each kind."""
