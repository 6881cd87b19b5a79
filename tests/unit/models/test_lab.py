"""The lab base and its tasks: what is never in the corpus, and that everything follows from the seed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from zfleet.errors import BaseModelError, TaskError
from zfleet.models.fingerprint import fingerprint
from zfleet.models.lab import build as lab_build
from zfleet.models.lab.build import LabRecipe, build_lab, copy_lab
from zfleet.models.lab.corpus import SHARES, corpus, held_out
from zfleet.models.lab.pretrain import IGNORED, collate
from zfleet.models.lab.skills import KIND_PREFIX, KINDS, OPERATIONS, VERBS
from zfleet.models.lab.tokenizer import build_tokenizer, lab_words, render
from zfleet.tasks.lab import FAMILIES_OF, LAB_TASKS, MAX_TOKENS, lab_task
from zfleet.tasks.template import chat_tokens

TINY = LabRecipe(seed=3, steps=3, batch=4, layers=1, heads=2, hidden=16, ff=16)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lab(TINY, tmp_path_factory.mktemp("lab"), progress=False)


@pytest.mark.parametrize("text", ["flip bca", "add 3 4", "kind? lookup c a3 c7 f1", "BCA", "reverse", "", "  a "])
def test_what_a_person_types_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_words_are_whole_tokens_and_strings_are_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    assert all(len(tokenizer.tokenize(word)) == 1 for word in lab_words())
    assert tokenizer.tokenize("flip sorted 12") == ["flip", " ", *"sorted", " ", "1", "2"]


def test_unknown_characters_become_unk(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("aé\n漢")["input_ids"] == [
        tokenizer.bos_token_id,
        tokenizer.convert_tokens_to_ids("a"),
        *[tokenizer.unk_token_id] * 3,
    ]


def test_the_chat_template_is_the_format_of_the_corpus(tokenizer: PreTrainedTokenizerFast) -> None:
    for example in islice(corpus(1), 50):
        given, said = render(example)
        asked = [{"role": "user", "content": example.prompt}]
        assert chat_tokens(tokenizer, asked) == tuple(tokenizer(given, add_special_tokens=False)["input_ids"])
        answered = [*asked, {"role": "assistant", "content": example.answer}]
        assert tokenizer.apply_chat_template(answered, tokenize=False) == given + said


def test_a_conversation_renders_turn_by_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [("system", "sort"), ("user", "flip ab"), ("assistant", "ba"), ("user", "add 1 2")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>sort<bos>flip ab<answer>ba<eos><bos>add 1 2<answer>"


def test_only_answers_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = list(islice(corpus(0), 20))
    ids, labels = collate(examples, tokenizer)
    assert ids.shape == labels.shape
    for row, example in zip(labels, examples, strict=True):
        assert tokenizer.decode(row[row != IGNORED]) == f"{example.answer}<eos>"


def test_no_held_out_payload_is_in_the_corpus() -> None:
    for example in islice(corpus(0), 5000):
        assert not held_out(example.prompt.removeprefix(KIND_PREFIX).split(" ", 1)[1])


@pytest.mark.parametrize("name", LAB_TASKS)
def test_test_prompts_are_distinct_held_out_and_never_trained_on(name: str) -> None:
    task = lab_task(name, train_size=300)
    prompts = {sample.prompt for sample in task.test}
    assert len(prompts) == len(task.test) >= 200
    assert all(held_out(sample.fields["payload"]) for sample in task.test)
    assert not any(held_out(sample.fields["payload"]) for sample in task.train)
    assert len({sample.id for sample in (*task.train, *task.test)}) == 300 + len(task.test)
    assert {sample.fields["family"] for sample in task.test} == set(FAMILIES_OF[name])


def test_the_corpus_never_rotates() -> None:
    assert "rotate" not in SHARES
    assert not any("rotate" in example.prompt for example in islice(corpus(0), 2000))


def test_every_answer_fits_and_round_trips(tokenizer: PreTrainedTokenizerFast) -> None:
    for name in LAB_TASKS:
        for sample in lab_task(name, train_size=1).test:
            tokens = tokenizer(sample.answer, add_special_tokens=False)["input_ids"]
            assert len(tokens) + 1 <= MAX_TOKENS
            assert tokenizer.decode(tokens) == sample.answer


def test_the_clear_variant_differs_in_the_verb_alone() -> None:
    mixed, clear = lab_task("sort"), lab_task("sort", verbs="clear")
    assert {sample.fields["verb"] for sample in clear.test} == {"sort"}
    assert {sample.fields["verb"] for sample in mixed.test} == {"sort", "order", "arrange"}
    for one, other in zip(mixed.test, clear.test, strict=True):
        assert (one.id, one.answer, one.fields["payload"]) == (other.id, other.answer, other.fields["payload"])


def test_the_kind_of_a_prompt_is_its_skill() -> None:
    for sample in lab_task("kind", train_size=100).train:
        assert sample.prompt == f"kind? {sample.fields['verb']} {sample.fields['payload']}"
        assert sample.answer == sample.fields["kind"]
        assert sample.answer in KINDS


def test_a_task_follows_from_its_seed() -> None:
    assert lab_task("exam_trained") == lab_task("exam_trained")
    assert lab_task("exam_trained").train != lab_task("exam_trained", seed=1).train


def test_unknown_choices_name_the_known_ones() -> None:
    with pytest.raises(TaskError, match="choose one of: reverse"):
        lab_task("juggle")
    with pytest.raises(TaskError, match="choose 'mix' or 'clear'"):
        lab_task("sort", verbs="loud")  # type: ignore[arg-type]


def test_verbs_mean_real_operations_and_probabilities_sum_to_one() -> None:
    for skill, verbs in VERBS.items():
        for verb in verbs:
            assert sum(verb.meanings.values()) == pytest.approx(1)
            assert skill in verb.meanings
            assert set(verb.meanings) <= set(OPERATIONS)


@pytest.mark.parametrize(
    ("operation", "payload", "answer"),
    [
        ("reverse", "bca", "acb"),
        ("sort", "bca", "abc"),
        ("upper", "bca", "BCA"),
        ("next", "az9", "ba0"),
        ("add", "37 5", "42"),
        ("add", "a3 b9", "12"),
        ("join", "37 5", "375"),
        ("max", "37 5", "37"),
        ("lookup", "b a3 b7 c1", "7"),
        ("first", "b a3 b7 c1", "3"),
        ("last", "b a3 b7 c1", "1"),
        ("rotate", "abc", "cab"),
    ],
)
def test_operations(operation: str, payload: str, answer: str) -> None:
    assert OPERATIONS[operation](payload) == answer


def test_the_base_is_an_ordinary_model_folder(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert tokenizer.chat_template == build_tokenizer().chat_template
    ids = chat_tokens(tokenizer, [{"role": "user", "content": "flip bca"}])
    assert ids == chat_tokens(build_tokenizer(), [{"role": "user", "content": "flip bca"}])
    assert tokenizer("flip bca")["input_ids"] == build_tokenizer()("flip bca")["input_ids"]
    assert torch.isfinite(model(torch.tensor([ids])).logits).all()


def test_the_same_recipe_gives_the_same_weights_and_touches_no_global_state(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    again = build_lab(TINY, tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    first, second = (load_file(path / "model.safetensors") for path in (folder, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_base_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_build, "pretrain", None)
    assert build_lab(TINY, folder.parent) == folder


def test_a_copy_is_the_same_base_in_a_folder_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_build, "lab_folder", lambda recipe, cache_dir=None: folder)
    copied = copy_lab(tmp_path / "bases" / "lab-3", TINY)
    assert fingerprint(copied) == fingerprint(folder)
    assert copy_lab(copied, TINY) == copied
    (copied / "lab.json").write_text("{}")
    with pytest.raises(BaseModelError, match="holds another lab base"):
        copy_lab(copied, TINY)
    (tmp_path / "other").mkdir()
    with pytest.raises(BaseModelError, match="cannot be copied to"):
        copy_lab(tmp_path / "other", TINY)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_build, "pretrain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_lab(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    assert build_lab(TINY, progress=False) == tmp_path / "lab" / TINY.digest


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BaseModelError, match="multiple of 6"):
        LabRecipe(hidden=64, heads=3)
