"""What the tests of GGUF files share: a cache of their own, and a tiny Llama as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zfleet.errors import BaseModelError
from zfleet.models.base import find_base
from zfleet.models.gguf.folders import bases_root
from zfleet.testing.gguf_files import save_gguf
from zfleet.testing.tiny_bases import save_tiny
from zfleet.testing.tokenizers import byte_level


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a byte-level tokenizer, which GGUF can hold."""
    return save_tiny("llama", tmp_path_factory.mktemp("llama") / "llama", tokenizer=byte_level())


@pytest.fixture(scope="session")
def file(llama: Path) -> Path:
    """The tiny Llama in Q8_0."""
    return save_gguf(llama, llama.parent / "tiny.gguf", "Q8_0")


@pytest.fixture
def refusal() -> Callable[[Path], BaseModelError]:
    """``refusal(path)``: convert, and return the error. Nothing may be left in the cache."""

    def refuse(path: Path) -> BaseModelError:
        with pytest.raises(BaseModelError) as caught:
            find_base(str(path))
        assert not [one for one in bases_root().glob("*") if one.is_dir()]
        assert caught.value.remedy
        return caught.value

    return refuse
