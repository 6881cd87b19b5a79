"""Prompt templates."""

from __future__ import annotations

import copy

import pytest

from zfleet.errors import TaskError
from zfleet.models.base import Base
from zfleet.tasks.template import PromptTemplate, chat_tokens


def test_any_field_name_of_a_row_can_be_used(tiny_base: Base) -> None:
    template = PromptTemplate("{prompt} {tokenizer} {self}")
    ids = template.render(tiny_base.tokenizer, "flip", {"tokenizer": "a", "self": "b"})
    assert ids == tuple(tiny_base.tokenizer("flip a b")["input_ids"])


def test_images_come_first_unless_the_template_places_them(tiny_base: Base) -> None:
    tokenizer = tiny_base.tokenizer
    first = PromptTemplate("say {prompt}").render(tokenizer, "flip", images=2)
    assert first == tuple(tokenizer("<image><image>\nsay flip")["input_ids"])
    placed = PromptTemplate("say <image> {prompt}").render(tokenizer, "flip", images=1)
    assert placed == tuple(tokenizer("say <image> flip")["input_ids"])
    chat = PromptTemplate().render(tokenizer, "flip", images=1)
    assert chat == chat_tokens(tokenizer, [{"role": "user", "content": "<image>\nflip"}])


PARTS = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %} "
    "{% endfor %}"
)
"""Like LLaVA's template: it drops a message that is a plain text."""


def test_a_chat_template_of_parts_is_given_parts(tiny_base: Base) -> None:
    tokenizer = copy.deepcopy(tiny_base.tokenizer)
    tokenizer.chat_template = PARTS
    rendered = PromptTemplate().render(tokenizer, "flip", images=1)
    assert rendered == tuple(tokenizer("user: <image>\nflip ", add_special_tokens=False)["input_ids"])
    turns = [{"role": "user", "content": "flip"}, {"role": "assistant", "content": "sort"}]
    expected = "user: flip assistant: sort "
    assert chat_tokens(tokenizer, turns) == tuple(tokenizer(expected, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", ["{question}", "{}", "{prompt.x}", "{prompt"])
def test_the_error_of_a_template_names_the_fields_of_the_row(tiny_base: Base, text: str) -> None:
    with pytest.raises(TaskError, match=r"cannot be filled.*fields: prompt, owner"):
        PromptTemplate(text).render(tiny_base.tokenizer, "flip", {"owner": "Mia"})


REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {% endfor %}"
)
ALTERNATES = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ message['content'] }} {% endfor %}"
)
NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('Give a system turn') }}{% endif %}"
    "{% for message in messages %}{{ message['content'] }} {% endfor %}"
)
CALCULATES = "{{ 1 + messages[0]['content'] }}"
LOOKS_UP = "{{ messages[0]['name']['first'] }}"


@pytest.mark.parametrize(
    ("template", "roles", "words"),
    [
        (REFUSES_SYSTEM, ["system", "user"], "System role not supported"),
        (ALTERNATES, ["user", "user"], "Conversation roles must alternate user/assistant"),
        (ALTERNATES, ["assistant", "user"], "Conversation roles must alternate user/assistant"),
        (NEEDS_SYSTEM, ["user"], "Give a system turn"),
        (CALCULATES, ["user"], "unsupported operand"),
        (LOOKS_UP, ["user"], "has no attribute 'name'"),
    ],
)
def test_the_error_quotes_a_chat_template_that_raises(
    tiny_base: Base, template: str, roles: list[str], words: str
) -> None:
    tokenizer = copy.deepcopy(tiny_base.tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(TaskError, match=f"refuses turns of {', '.join(roles)}: .*{words}"):
        chat_tokens(tokenizer, [{"role": role, "content": "flip"} for role in roles])


def test_a_chat_template_that_refuses_one_turn_is_given_texts(tiny_base: Base) -> None:
    """A template that refuses a single user turn is not taken for a template of parts."""
    tokenizer = copy.deepcopy(tiny_base.tokenizer)
    tokenizer.chat_template = NEEDS_SYSTEM
    turns = [{"role": "system", "content": "flip"}, {"role": "user", "content": "sort"}]
    assert chat_tokens(tokenizer, turns) == tuple(tokenizer("flip sort ", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", ["{prompt}", "<bos>{prompt}", "<bos>{prompt}<bos>{prompt}", "x<bos>{prompt}"])
def test_a_prompt_begins_with_one_bos(tiny_base: Base, text: str) -> None:
    tokenizer = tiny_base.tokenizer
    written = text.format(prompt="flip").removeprefix("<bos>")
    expected = [tokenizer.bos_token_id, *tokenizer(written, add_special_tokens=False)["input_ids"]]
    assert PromptTemplate(text).render(tokenizer, "flip") == tuple(expected)
