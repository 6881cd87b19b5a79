"""Prompt templates."""

from __future__ import annotations

import pytest

from zfleet.errors import TaskError
from zfleet.models.base import Base
from zfleet.tasks.template import PromptTemplate


def test_any_field_name_of_a_row_can_be_used(tiny_base: Base) -> None:
    template = PromptTemplate("{prompt} {tokenizer} {self}")
    ids = template.render(tiny_base.tokenizer, "flip", {"tokenizer": "a", "self": "b"})
    assert ids == tuple(tiny_base.tokenizer("flip a b")["input_ids"])


@pytest.mark.parametrize("text", ["{question}", "{}", "{prompt.x}", "{prompt"])
def test_a_template_that_cannot_be_filled_says_what_there_is(tiny_base: Base, text: str) -> None:
    with pytest.raises(TaskError, match=r"cannot be filled.*fields: prompt, owner"):
        PromptTemplate(text).render(tiny_base.tokenizer, "flip", {"owner": "Mia"})
