"""What zfleet does in each step of vLLM's model runner: the rows of its tokens, and what is read beside its answers.

Relies on the following, as it is in the releases that ``version`` names:

- ``GPUModelRunner.execute_model``, which calls ``_prepare_inputs(scheduler_output, num_scheduled_tokens)`` and
  ``_model_forward`` once each in a step that serves requests. The latter returns the hidden states [T, hidden] after
  the final norm, padded behind the step's tokens.
- ``input_batch.req_ids`` in the order of the batch; ``requests[id]`` with ``sampling_params``, ``prompt_token_ids``,
  ``num_prompt_tokens`` and ``num_computed_tokens``, which counts those before the step.
- ``num_prompt_logprobs``, which names the requests whose prompts are scored, with the number of alternatives; their
  ``in_progress_prompt_logprobs_cpu``, which is filled from the first computed token on, and is made if it is None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.v1.outputs import LogprobsTensors

from zfleet.engine.vllm_engine.hidden_states import HiddenSums, Piece
from zfleet.engine.vllm_engine.linears.step_rows import Assignment, StepRows
from zfleet.engine.vllm_engine.plan import HIDDEN, SETTINGS

_NOT_COMPUTED = -1
"""In the place of a token whose score was not computed."""


def watch(runner: Any, step: StepRows, hidden: HiddenSums) -> None:
    """Begin the step's rows before each forward pass, and end them after it; add up hidden states."""
    prepare, forward, execute = runner._prepare_inputs, runner._model_forward, runner.execute_model

    def prepare_inputs(scheduler_output: Any, counts: NDArray[np.int32], *rest: Any) -> Any:
        prepared = prepare(scheduler_output, counts, *rest)
        requests = [runner.requests[name] for name in runner.input_batch.req_ids]
        step.begin([_assignment(request) for request in requests], counts)
        hidden.begin([_piece(request, int(count)) for request, count in zip(requests, counts, strict=True)])
        for name, alternatives in runner.num_prompt_logprobs.items():
            _mark(runner.requests[name], alternatives)
        return prepared

    def model_forward(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        if hidden.wanted:
            hidden.add(output)
        return output

    def execute_model(*args: Any, **options: Any) -> Any:
        try:
            return execute(*args, **options)
        finally:
            step.end()

    runner._prepare_inputs, runner._model_forward, runner.execute_model = prepare_inputs, model_forward, execute_model


def _assignment(request: Any) -> Assignment:
    row, digest, exact = request.sampling_params.extra_args[SETTINGS]
    return Assignment(int(row), str(digest), bool(exact))


def _piece(request: Any, tokens: int) -> Piece:
    first = int(request.num_computed_tokens)
    return Piece(request.sampling_params.extra_args.get(HIDDEN), first, request.num_prompt_tokens - first, tokens)


def _mark(request: Any, alternatives: int) -> None:
    """Say of every place of a prompt that its score was not computed; vLLM leaves those from its cache as they are."""
    if request.in_progress_prompt_logprobs_cpu is None and len(request.prompt_token_ids) > 1:
        tensors = LogprobsTensors.empty_cpu(len(request.prompt_token_ids) - 1, alternatives + 1)
        tensors.logprob_token_ids.fill_(_NOT_COMPUTED)
        request.in_progress_prompt_logprobs_cpu = tensors
