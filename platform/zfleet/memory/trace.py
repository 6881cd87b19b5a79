"""What passes of a base allocate, traced without its weights: the real code runs on tensors that have no memory.

PyTorch's fake tensors have shapes and types and no numbers; what their storages would take is added up, as torchtitan
estimates the memory of trainings. So nothing here knows how a family of models computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from zfleet.memory.allocated import Allocated
from zfleet.models.base import Base
from zfleet.models.completions import Row, lay_out
from zfleet.models.recompute import checkpoint_layers
from zfleet.models.shared_prompt import PassCost
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_hidden, completion_values
from zfleet.models.token_values import Divergence, Selection
from zfleet.rl.weights import SvfWeights
from zfleet.svf.factors import Factors, MatrixFactors
from zfleet.svf.layout import target_names

_SHORT, _LONG = 2, 4
"""Decoder layers of the two models that are traced. Layers are alike, so that each adds the same."""


@dataclass(frozen=True)
class TracedBase:
    """A base as its configuration describes it.

    Attributes:
        config: Of the causal LM.
        targets: Which matrices are decomposed.
        dtype: What it computes in.
    """

    config: PreTrainedConfig
    targets: str
    dtype: torch.dtype

    def step_bytes(self, rows: Sequence[Row], *, experts: int, divergence: bool, recompute: bool) -> int:
        """Return what a micro-batch allocates at most, forward and backward, logits and gradients included.

        Args:
            rows: Of the micro-batch; their tokens do not matter, their lengths do.
            experts: How many experts' rows these are.
            divergence: Whether the divergence from the base is computed too.
            recompute: Whether decoder layers run again in the backward pass.
        """
        return self._of_all_layers(lambda model: step_peak(model, rows, experts, divergence), recompute)

    def forward_bytes(self, tokens: int) -> int:
        """Return what a pass over prompts of so many tokens allocates at most, without gradients."""

        def forward(model: SvfModel) -> int:
            batch = lay_out([Row((0,) * tokens, ((0,),))], model)
            z = torch.ones(1, model.layout.size)
            with torch.no_grad():
                return _peak(model, lambda: completion_hidden(model, batch, z))

        return self._of_all_layers(forward)

    @cached_property
    def sizes(self) -> BaseSizes:
        """What the base holds, whatever it computes."""
        with torch.device("meta"):
            model = _new_model(self.config, self.dtype)
        shapes = [_shape(model.get_submodule(name)) for name in target_names(model, self.targets)]
        ranks = [min(shape) for shape in shapes]
        weights = {id(one): one.numel() * one.element_size() for one in (*model.parameters(), *model.buffers())}
        return BaseSizes(
            weights=sum(weights.values()),
            factors=sum(rank * sum(shape) for rank, shape in zip(ranks, shapes, strict=True)) * self.dtype.itemsize,
            directions=sum(ranks),
        )

    @cached_property
    def cost(self) -> PassCost:
        """What a pass multiplies, in a model of fewer layers: all costs are of each layer alike."""
        with self._fake:
            return self._model(_SHORT, False).cost

    def new_model(self, layers: int, recompute: bool) -> SvfModel:
        """Build the first layers in SVF form, with arbitrary weights: on fake tensors where those are on."""
        model = _new_svf_model(_with_layers(self.config, layers), self.targets, self.dtype)
        if recompute:
            checkpoint_layers(model)
        return model

    def _of_all_layers(self, measure: Callable[[SvfModel], int], recompute: bool = False) -> int:
        layers = int(self.config.num_hidden_layers)
        with self._fake:
            if layers <= _LONG:
                return measure(self._model(layers, recompute))
            short, long = (measure(self._model(some, recompute)) for some in (_SHORT, _LONG))
        return long + (layers - _LONG) * (long - short) // (_LONG - _SHORT)

    @cached_property
    def _fake(self) -> FakeTensorMode:
        return FakeTensorMode()

    @cached_property
    def _model(self) -> Callable[[int, bool], SvfModel]:
        """Builds a model as ``new_model`` the first time; that takes about as long as tracing it."""
        return cache(self.new_model)


@dataclass(frozen=True)
class BaseSizes:
    """What an opened base holds.

    Attributes:
        weights: Bytes of its weights; tied ones count once.
        factors: Bytes of U diag(s) and Vh of its targets.
        directions: Numbers in one z.
    """

    weights: int
    factors: int
    directions: int


def _with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    values = config.to_dict()
    # Some families list the kind of each layer.
    lists = {name: value[:layers] for name, value in values.items() if name == "layer_types" and value}
    return type(config).from_dict(values | lists | {"num_hidden_layers": layers})


def _new_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.train(False)
    return model


def _new_svf_model(config: PreTrainedConfig, targets: str, dtype: torch.dtype) -> SvfModel:
    model = _new_model(config, dtype)
    factors = {name: _new_factors(model.get_submodule(name)) for name in target_names(model, targets)}
    # Nothing here reads text.
    base = Base("traced", "", model, PreTrainedTokenizerBase())
    return SvfModel(base, Factors(factors, "", targets))


def _shape(linear: nn.Module) -> tuple[int, int]:
    assert isinstance(linear, nn.Linear)
    return linear.out_features, linear.in_features


def _new_factors(linear: nn.Module) -> MatrixFactors:
    m, n = _shape(linear)
    r = min(m, n)
    return MatrixFactors(torch.empty(m, r), torch.empty(r), torch.empty(r, n))


def step_peak(model: SvfModel, rows: Sequence[Row], experts: int, divergence: bool) -> int:
    """Return what a micro-batch allocates at most on a model.

    Args:
        model: With fake tensors or real ones.
        rows, experts, divergence: As of ``TracedBase.step_bytes``.
    """
    return _peak(model, lambda: _step(model, rows, experts, divergence))


def _step(model: SvfModel, rows: Sequence[Row], experts: int, divergence: bool) -> None:
    """Do as the learner does with a micro-batch (``zfleet.rl.gradient``)."""
    weights = SvfWeights(model)
    # In the place of p: what makes z of it takes next to nothing.
    zs = torch.ones(experts, model.layout.size).requires_grad_()
    batch = lay_out(rows, model)
    selection = Selection()
    if divergence:
        with torch.no_grad(), weights.reference_policy() as z:
            hidden = completion_hidden(model, batch, z)
        selection = replace(selection, divergence=Divergence(hidden, "policy", learned=True))
    owners = torch.tensor([place % experts for place in range(len(rows))])
    (values,) = completion_values(model, batch, zs if experts == 1 else zs.index_select(0, owners), [selection])
    loss = values.logprobs.sum() + (0 if values.divergence is None else values.divergence.sum())
    torch.autograd.grad(loss, zs)


def _peak(model: SvfModel, work: Callable[[], object]) -> int:
    """Return what some work allocates at most, besides what the model holds."""
    module = model.base.model
    with Allocated((*module.parameters(), *module.buffers())) as allocated:
        work()
    peak: int = allocated.peak
    return peak
