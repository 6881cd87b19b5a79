"""The tokenizer of a GGUF file: rebuilt by transformers, completed by what transformers leaves out, and tried.

A GGUF file names how its tokenizer splits text (``tokenizer.ggml.pre``) and does not say what that means. A name that
is not in the table here is refused: with another split, a text has other tokens than the model was trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

from zfleet.errors import BaseModelError
from zfleet.models.gguf.config import EMBEDDINGS
from zfleet.models.gguf.read import GgufFile

_REMEDY = "use the model's Hugging Face folder, which holds its tokenizer"
_CONTROL, _USER_DEFINED = 3, 4
"""``gguf.TokenType``: added tokens, special and not."""

_SAMPLES = ("The capital of France is Paris.", "if (x == 12) {  return 3.5; }", "a\nb")


@dataclass(frozen=True)
class _Split:
    """A ``tokenizer.ggml.pre`` of byte-level tokenizers.

    Attributes:
        whole: A word that is a token stays one, whatever the merges say.
        begins: A text begins with BOS, unless the file says otherwise.
        composes: Letters and their accents are composed first (Unicode's NFC).
        single_digits: Each digit stands alone.
    """

    whole: bool = False
    begins: bool = False
    composes: bool = False
    single_digits: bool = False


_LLAMA3 = _Split(whole=True, begins=True)
_SPLITS = {
    "gpt-2": _Split(),
    "phi-2": _Split(),
    "smollm": _Split(single_digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "tekken": _LLAMA3,
    "qwen2": _Split(composes=True),
    "deepseek-r1-qwen": _Split(),
    "dbrx": _Split(),
    "gpt-4o": _Split(),
}
"""Source: ``llama-vocab.cpp`` of llama.cpp, and the tokenizer.json of the models that these names stand for."""


def build_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """Rebuild the tokenizer of a GGUF file, with its chat template if it has one.

    Raises:
        BaseModelError: It is of a kind that cannot be rebuilt, its tables are damaged, it has more tokens than the
            model, or what it encodes it does not decode again.
    """
    kind = file.get("tokenizer.ggml.model")
    split = _split(file, kind)
    try:
        architecture, tables, names = get_gguf_tokenizer(str(file.path))
        backend, _ = convert_gguf_tokenizer(architecture, tables)
        backend = _with_added_tokens(backend, kind, tables["tokens"], tables["token_type"])
        _complete(backend, split)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            **names,
            add_bos_token=file.get("tokenizer.ggml.add_bos_token", split.begins),
            add_eos_token=file.get("tokenizer.ggml.add_eos_token", False),
        )
    except Exception as error:  # The tokenizers library raises nothing more precise.
        raise _cannot(file, f"{type(error).__name__}: {error}") from error
    _try_out(file, tokenizer)
    return tokenizer


def _split(file: GgufFile, kind: object) -> _Split:
    if kind == "llama":
        # SentencePiece. transformers' builders of this kind always put a space before the first word, Gemma's never.
        if file.architecture.name != "gemma" and not file.get("tokenizer.ggml.add_space_prefix", True):
            raise _cannot(file, "it puts no space before the first word")
        return _Split(begins=True)
    if kind != "gpt2":
        raise _cannot(file, f"tokenizer.ggml.model is {kind!r}; supported are 'gpt2' and 'llama'")
    name = file.get("tokenizer.ggml.pre")
    if name not in _SPLITS:
        raise _cannot(file, f"tokenizer.ggml.pre is {name!r}; supported are {', '.join(_SPLITS)}")
    return _SPLITS[name]


def _with_added_tokens(backend: Tokenizer, kind: object, words: list[str], types: list[int]) -> Tokenizer:
    """Keep the tokens whole that the file marks as added, under their ids, and no others.

    transformers leaves out those of byte-level tokenizers that are not written in the alphabet of bytes, such as runs
    of spaces, and adds the usual names of special tokens where a file has others: ids that the model does not have.
    """
    content = json.loads(backend.to_str())
    vocabulary = content["model"]["vocab"]
    spelled = {token: word for word, token in vocabulary.items()}
    content["added_tokens"] = []
    for token, (word, of_type) in enumerate(zip(words, types, strict=True)):
        if of_type not in (_CONTROL, _USER_DEFINED):
            continue
        if kind == "gpt2":
            vocabulary[word] = vocabulary.pop(spelled[token])
        elif spelled[token] != word:
            continue  # Gemma's runs of spaces, which its merges make.
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        content["added_tokens"].append({"id": token, "content": word, "special": of_type == _CONTROL, **flags})
    whole: Tokenizer = Tokenizer.from_str(json.dumps(content))
    return whole


def _complete(backend: Tokenizer, split: _Split) -> None:
    if split.whole:
        backend.model.ignore_merges = True
    if split.composes:
        backend.normalizer = normalizers.NFC()
    if split.single_digits:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(parts)


def _try_out(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = int(file.tensors[EMBEDDINGS].shape[-1])
    if len(tokenizer) > rows:
        raise _cannot(file, f"it has {len(tokenizer)} tokens, the model {rows}")
    for token, added in tokenizer.added_tokens_decoder.items():
        if (ids := tokenizer.encode(added.content, add_special_tokens=False)) != [token]:
            raise _cannot(file, f"{added.content!r}, token {token}, is read as {ids}")
    for text in _SAMPLES:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False)
        if back != text:
            raise _cannot(file, f"{text!r} comes back as {back!r}")


def _cannot(file: GgufFile, reason: str) -> BaseModelError:
    return BaseModelError(f"the tokenizer of {file.path} cannot be rebuilt: {reason}", _REMEDY)
