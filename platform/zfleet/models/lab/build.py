"""Builds the lab base: a small Llama, trained once in about a minute of CPU and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from zfleet.errors import BaseModelError
from zfleet.files import write_folder
from zfleet.models.lab.pretrain import pretrain
from zfleet.models.lab.tokenizer import CONTEXT, build_tokenizer
from zfleet.paths import cache_root

RECIPE_VERSION = 1
"""Raised whenever the corpus, the tokenizer or the training changes: a base is never mistaken for another."""

_RECIPE = "lab.json"
"""The recipe, in the folder of a base."""

STEPS = 800
"""About a minute on one thread. Steps, not seconds: a base must not depend on the machine's load."""


@dataclass(frozen=True)
class LabRecipe:
    """Everything the lab base depends on.

    Attributes:
        seed: Of the initial weights and of the corpus.
        steps: Of training; the schedule stretches over them.
        batch: Examples a step.
        layers, heads, hidden, ff: The Llama's dimensions; vLLM's CPU kernels need heads of 32 or more.
        muon_lr: For the hidden matrices.
        adam_lr: For embeddings, norms and the output.
    """

    seed: int = 7
    steps: int = STEPS
    batch: int = 128
    layers: int = 3
    heads: int = 2
    hidden: int = 64
    ff: int = 192
    muon_lr: float = 0.02
    adam_lr: float = 8e-3

    def __post_init__(self) -> None:
        if self.hidden % (2 * self.heads):
            raise BaseModelError(
                f"lab recipe: hidden {self.hidden} does not split into {self.heads} heads of even size",
                f"choose a multiple of {2 * self.heads}",
            )

    @property
    def digest(self) -> str:
        """Names the base in the cache."""
        content = json.dumps({"version": RECIPE_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def build_lab(recipe: LabRecipe | None = None, cache_dir: Path | None = None, progress: bool = True) -> Path:
    """Build the lab base, an ordinary Hugging Face folder, on the first call; later calls find it.

    Args:
        recipe: What to build; the default is the base of every demonstration.
        cache_dir: Where bases are kept; ``cache_root() / "lab"`` by default.
        progress: Show a progress bar, if the error stream is a terminal.

    An interrupted build leaves no base behind; of two builds at once the first to finish stays.
    """
    made = recipe or LabRecipe()
    return write_folder(lab_folder(made, cache_dir), lambda folder: _write(made, folder, progress))


def copy_lab(folder: Path, recipe: LabRecipe | None = None) -> Path:
    """Build a lab base and copy it to a folder, which a spec can name as ``base.model``.

    Raises:
        BaseModelError: The folder is there and holds something else, or cannot be written.
    """
    made = recipe or LabRecipe()
    built = build_lab(made)
    try:
        write_folder(folder, lambda empty: _copy(built, empty))
        same = (folder / _RECIPE).read_bytes() == (built / _RECIPE).read_bytes()
    except OSError as error:
        raise BaseModelError(f"the lab base cannot be copied to {folder}: {error}", "name another folder") from error
    if not same:
        raise BaseModelError(f"{folder} holds another lab base", "name another folder")
    return folder


def lab_folder(recipe: LabRecipe | None = None, cache_dir: Path | None = None) -> Path:
    """Name the folder of a lab base, with the defaults of ``build_lab``. It may not exist."""
    root = cache_root() / "lab" if cache_dir is None else cache_dir
    return root / (recipe or LabRecipe()).digest


def _copy(folder: Path, to: Path) -> None:
    for file in folder.iterdir():
        shutil.copyfile(file, to / file.name)


def _write(recipe: LabRecipe, folder: Path, progress: bool) -> None:
    tokenizer = build_tokenizer()
    specials = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.ff,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        dtype="float32",
        **specials,
    )
    model: LlamaForCausalLM = pretrain(
        config,
        tokenizer,
        seed=recipe.seed,
        steps=recipe.steps,
        batch=recipe.batch,
        muon_lr=recipe.muon_lr,
        adam_lr=recipe.adam_lr,
        progress=progress,
    )
    model.generation_config = GenerationConfig(**specials)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    # Not save_pretrained: it draws its own progress bar wherever it runs.
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    (folder / _RECIPE).write_text(json.dumps({"version": RECIPE_VERSION, **asdict(recipe)}, indent=2) + "\n")
