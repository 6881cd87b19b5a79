"""Every form of an engine's linears, driven by steps as a worker drives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zfleet.engine.contract import BASE_Z
from zfleet.engine.vllm_engine.linears.delta_form import DeltaForm, DeltaStep
from zfleet.engine.vllm_engine.linears.factored import FactoredForm
from zfleet.engine.vllm_engine.linears.forms import Form
from zfleet.engine.vllm_engine.linears.graph import GraphForm
from zfleet.engine.vllm_engine.linears.merged import MergedForm
from zfleet.engine.vllm_engine.linears.parts import PartFactors
from zfleet.engine.vllm_engine.linears.step_rows import Assignment, StepRows
from zfleet.svf.factors import MatrixFactors, decompose

INPUTS, OUTPUTS = 6, (8, 4)
RANKS = (6, 4)
SIZE = sum(RANKS)
CPU = torch.device("cpu")


class Fused:
    """One linear of two matrices, in some form."""

    def __init__(self, form: Form) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(sum(OUTPUTS), INPUTS, generator=generator)
        self.matrices: list[MatrixFactors] = []
        parts, row, column = [], 0, 0
        for outputs, rank in zip(OUTPUTS, RANKS, strict=True):
            m = decompose(self.weight[row : row + outputs], torch.float32)
            place = slice(column, column + rank), slice(row, row + outputs)
            parts.append(PartFactors(f"part{row}", m.u, m.s, m.vh, *place))
            self.matrices.append(m)
            row, column = row + outputs, column + rank
        self.parts = parts
        self.plain_calls = 0
        self.linear = form.linear(self._plain, self.weight, parts)
        self.step: StepRows = form.open(4, 64, SIZE, CPU)
        self.form = form

    def _plain(self, x: Tensor, bias: Tensor | None) -> Tensor:
        self.plain_calls += 1
        return torch.nn.functional.linear(x, self.weight, bias)

    def know(self, **zs: Tensor) -> None:
        self.step.known.update(zs)

    def keep(self, *places: int) -> Tensor:
        """Have form ``delta`` compute with these directions. Returns those that it computes with."""
        assert isinstance(self.form, DeltaForm)
        kept = torch.zeros(SIZE, dtype=torch.bool)
        kept[list(places)] = True
        return self.form.set_directions(kept)

    def run(self, x: Tensor, *requests: tuple[int, str, int], exact: tuple[str, ...] = ("a", "b")) -> Tensor:
        """Run one step with (row, z, tokens) of each request; those under ``exact`` with all directions."""
        assignments = [Assignment(row, z, z in exact) for row, z, _ in requests]
        self.step.begin(assignments, np.array([n for *_, n in requests], np.int32))
        y = self.linear(x, None)
        self.step.end()
        return y

    def expected(self, x: Tensor, *requests: tuple[int, str, int]) -> Tensor:
        """Apply the merged weight of each request to its tokens."""
        rows, start = [], 0
        for _, z, tokens in requests:
            flat = self.step.known.get(z, torch.ones(SIZE))
            merged = torch.cat([m.merged(flat[p.columns]) for m, p in zip(self.matrices, self.parts, strict=True)])
            rows.append(x[start : start + tokens].double() @ merged.T)
            start += tokens
        return torch.cat(rows).float()


def _z(seed: int) -> Tensor:
    return 1 + 0.5 * torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def _x(tokens: int) -> Tensor:
    return torch.randn(tokens, INPUTS, generator=torch.Generator().manual_seed(tokens))


@pytest.mark.parametrize("form", [FactoredForm(), MergedForm(), GraphForm(), DeltaForm()])
def test_every_form_gives_each_token_its_own_z(form: Form) -> None:
    """Mixed steps, then the base alone, then an expert alone, on rows that change hands."""
    fused = Fused(form)
    fused.know(a=_z(1), b=_z(2))
    for step in (
        [(1, "a", 3), (0, BASE_Z, 1), (2, "b", 2)],
        [(0, BASE_Z, 6)],
        [(1, "b", 6)],
        [(2, "a", 1), (1, "b", 5)],
        [(0, BASE_Z, 6)],
    ):
        torch.testing.assert_close(fused.run(_x(6), *step), fused.expected(_x(6), *step), atol=1e-4, rtol=1e-4)


def test_a_step_of_the_base_alone_is_the_engines_own_linear() -> None:
    fused = Fused(FactoredForm())
    fused.know(a=_z(1))
    fused.run(_x(2), (1, "a", 2))
    assert fused.plain_calls == 0
    assert torch.equal(fused.run(_x(2), (0, BASE_Z, 2)), torch.nn.functional.linear(_x(2), fused.weight))


def test_passes_without_requests_run_as_the_base() -> None:
    for form in (FactoredForm(), GraphForm()):
        fused = Fused(form)
        fused.know(a=_z(1))
        fused.run(_x(4), (1, "a", 4))
        warm = torch.nn.functional.linear(_x(4), fused.weight)
        torch.testing.assert_close(fused.linear(_x(4), None), warm, atol=1e-4, rtol=1e-4)


def test_a_z_that_all_share_is_merged_when_that_begins_to_pay() -> None:
    """And no sooner: the ski-rental rule, counted in multiplications."""
    fused = Fused(MergedForm())
    fused.know(a=_z(1), b=_z(2))
    price = sum(m * r * INPUTS for m, r in zip(OUTPUTS, RANKS, strict=True))
    excess = 4 * sum(r * (m + INPUTS) - m * INPUTS for m, r in zip(OUTPUTS, RANKS, strict=True))
    gathers: list[slice] = []
    gather = fused.step.of

    def counted(columns: slice) -> Tensor:
        gathers.append(columns)
        return gather(columns)

    fused.step.of = counted  # type: ignore[method-assign]
    steps = -(-price // excess)
    for _ in range(2 * steps):
        torch.testing.assert_close(
            fused.run(_x(4), (1, "a", 4)), fused.expected(_x(4), (1, "a", 4)), atol=1e-4, rtol=1e-4
        )
    assert len(gathers) == steps - 1, "merged with the step that makes up for it"
    request = (1, "b", 4)
    torch.testing.assert_close(fused.run(_x(4), request), fused.expected(_x(4), request), atol=1e-4, rtol=1e-4)
    assert len(gathers) == steps, "another z begins anew"


def _only(z: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, z, torch.ones_like(z))


STEP = ((1, "a", 3), (0, BASE_Z, 1), (2, "b", 2))


def test_directions_leave_out_the_rest_of_a_z() -> None:
    fused = Fused(DeltaForm())
    fused.know(a=_z(1), b=_z(2))
    kept = fused.keep(0, 3, SIZE - 1)
    assert kept.sum() == 3
    y = fused.run(_x(6), *STEP, exact=())
    fused.know(a=_only(_z(1), kept), b=_only(_z(2), kept))
    torch.testing.assert_close(y, fused.expected(_x(6), *STEP), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kept", [(0,), (0, 3), tuple(range(SIZE))])
def test_a_z_that_does_not_fit_is_exact_beside_others(kept: tuple[int, ...]) -> None:
    """Whether the step computes all rows exactly or those alone, which decides what is cheaper."""
    fused = Fused(DeltaForm())
    fused.know(a=_z(1), b=_z(2))
    of_b = _only(_z(2), fused.keep(*kept))
    for tokens in (1, 3, 20, 60):
        requests = (1, "a", tokens), (2, "b", 63 - tokens), (0, BASE_Z, 1)
        y = fused.run(_x(64), *requests, exact=("a",))
        exact = fused.expected(_x(64), *requests)
        torch.testing.assert_close(y[:tokens], exact[:tokens], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(y[-1:], exact[-1:], atol=1e-4, rtol=1e-4)
        if not fused.step.whole:  # type: ignore[attr-defined]
            fused.step.known["b"] = of_b
            exact = fused.expected(_x(64), *requests)
            fused.step.known["b"] = _z(2)
        torch.testing.assert_close(y, exact, atol=1e-4, rtol=1e-4)


def test_a_step_with_few_exact_tokens_computes_those_alone_again() -> None:
    fused = Fused(DeltaForm())
    fused.know(a=_z(1), b=_z(2))
    fused.keep(0)
    step = fused.step
    assert isinstance(step, DeltaStep)
    # 72 multiplications by W and at most 16 for one direction, against 110 by the factors.
    for tokens, whole in ((1, False), (12, False), (30, True), (63, True)):
        fused.run(_x(64), (1, "a", tokens), (2, "b", 64 - tokens), exact=("a",))
        assert step.whole is whole, tokens


def test_directions_that_cost_as_much_as_all_are_computed_exactly() -> None:
    fused = Fused(DeltaForm())
    fused.know(a=_z(1))
    assert fused.keep(*range(SIZE - 1)).all()
    torch.testing.assert_close(
        fused.run(_x(6), (1, "a", 6), exact=()), fused.expected(_x(6), (1, "a", 6)), atol=1e-4, rtol=1e-4
    )
    assert fused.plain_calls == 0
    assert fused.keep(0).sum() == 1


def test_other_directions_hold_from_the_next_step_on() -> None:
    fused = Fused(DeltaForm())
    fused.know(a=_z(1))
    for places in ((0,), (5,), ()):
        kept = fused.keep(*places)
        y = fused.run(_x(6), (1, "a", 6), exact=())
        fused.know(a=_only(_z(1), kept))
        torch.testing.assert_close(y, fused.expected(_x(6), (1, "a", 6)), atol=1e-4, rtol=1e-4)
        fused.know(a=_z(1))


def test_two_z_on_one_row_are_refused() -> None:
    fused = Fused(FactoredForm())
    fused.know(a=_z(1), b=_z(2))
    with pytest.raises(RuntimeError, match="two z on one row"):
        fused.run(_x(2), (1, "a", 1), (1, "b", 1))
