"""Scores of prompts' own tokens: each prompt is its first token, and the rest is its completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from zfleet.engine.contract import PromptScores
from zfleet.engine.torch_engine.logprobs import alternatives
from zfleet.engine.torch_engine.schedule import PASS_TOKENS
from zfleet.engine.torch_engine.single_pass import PromptScoring
from zfleet.engine.z_table import ZEntry
from zfleet.models.completions import Row, lay_out, micro_batches
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_alternatives


def prompt_scores(
    model: SvfModel, scorings: Sequence[PromptScoring], rows_of: Callable[[Sequence[ZEntry]], Tensor | None]
) -> list[PromptScores]:
    """Score the tokens of prompts, several prompts in each pass.

    Args:
        model: The base in SVF form.
        scorings: What is asked.
        rows_of: Gathers the z of a pass, [B, R]; None is the base.
    """
    scores = [PromptScores((), ())] * len(scorings)
    longer = [place for place, scoring in enumerate(scorings) if len(scoring.prompt) > 1]
    rows = [Row(scorings[place].prompt.tokens[:1], [scorings[place].prompt.tokens[1:]]) for place in longer]
    for chosen in micro_batches([row.length for row in rows], PASS_TOKENS):
        places = [longer[row] for row in chosen]
        batch = lay_out([rows[row] for row in chosen], model)
        most = max(scorings[place].top_logprobs for place in places)
        z = rows_of([scorings[place].entry for place in places])
        each = zip(*map(batch.of_each, completion_alternatives(model, batch, z, most)), strict=True)
        for place, (logprobs, values, ids) in zip(places, each, strict=True):
            count = scorings[place].top_logprobs
            others = alternatives(values[:, :count], ids[:, :count]) if count else []
            scores[place] = PromptScores(tuple(logprobs.tolist()), tuple(others))
    return scores
