"""Files of the reference implementation, made here in its format, and the z-vectors that they become."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zfleet.errors import InvalidZ
from zfleet.models.base import Base
from zfleet.models.matrices import target_matrices
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.layout import ZLayout, target_names
from zfleet.svf.reference_implementation import TARGETS, read_reference
from zfleet.testing.reference_files import Policy, params_of

Params = dict[str, Tensor]
Save = Callable[[Any], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save what a file is to hold, as the reference implementation does."""

    def write(content: Any) -> Path:
        torch.save(content, tmp_path / "file.pt")
        return tmp_path / "file.pt"

    return write


@pytest.fixture(scope="module")
def layouts(tiny_base: Base, tiny_folder: Path) -> dict[str, ZLayout]:
    return {targets: target_matrices(tiny_folder, tiny_base.fingerprint, targets).layout for targets in TARGETS}


@pytest.fixture(scope="module")
def mlp(tiny_base: Base, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Factors:
    """Factors of what the reference implementation trains."""
    return FactorCache(tmp_path_factory.mktemp("mlp")).get(target_matrices(tiny_folder, tiny_base.fingerprint, "mlp"))


@pytest.fixture(scope="module")
def params(tiny_base: Base) -> Params:
    return params_of(tiny_base.model)


@pytest.mark.parametrize("by_place", [True, False])
def test_merged_weights_are_those_that_the_reference_composes(
    tiny_base: Base, mlp: Factors, layouts: dict[str, ZLayout], params: Params, save: Save, by_place: bool
) -> None:
    found = read_reference(save(Policy(params).state_dict() if by_place else _parameters(params)))
    assert found.kind == ("policy_params" if by_place else "learnable_params")
    assert found.targets_on(layouts) == "mlp"
    z = found.z_on(mlp)
    z.check_fits(base=mlp.base, factors=mlp.digest, layout=mlp.layout)
    for key, p in params.items():
        composed = _compose(tiny_base.model.get_parameter(key).detach(), p)
        name = key.removesuffix(".weight")
        merged = mlp.matrices[name].merged(z.values[name])
        assert float((merged - composed).norm() / composed.norm()) < 1e-6
        base = mlp.matrices[name].merged(torch.ones_like(z.values[name]))
        assert float((base - composed).norm() / composed.norm()) > 1e-2, "the base would have passed"


def _compose(weight: Tensor, p: Tensor, max_mult: float = 1.7) -> Tensor:
    """W' as the reference implementation's ``compose_new_params`` has it, in float64 on an SVD of its own."""
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    mask = torch.sigmoid(p.double()) * max_mult
    composed: Tensor = u @ torch.diag(s * mask) @ vh * (s.sum() / (s * mask).sum())
    return composed


def test_the_rounding_of_the_mask_is_not_imitated_and_small(mlp: Factors, params: Params, save: Save) -> None:
    z = read_reference(save(params)).z_on(mlp)
    for key, p in params.items():
        name = key.removesuffix(".weight")
        s, mask = mlp.matrices[name].s.double(), torch.sigmoid(p).double()
        rounded = mask * (s.sum() / (s * mask).sum())
        # bfloat16 rounds by up to 1/256, and the rescale takes the mean of that back.
        assert 1e-4 < float((z.values[name] / rounded - 1).abs().max()) < 2 / 256


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_other_floating_types_are_read(mlp: Factors, params: Params, save: Save, dtype: torch.dtype) -> None:
    z = read_reference(save({key: p.to(dtype) for key, p in params.items()})).z_on(mlp)
    assert z.digest == read_reference(save(params)).z_on(mlp).digest


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("by_place", [True, False])
def test_targets_are_chosen_by_what_the_file_holds(
    tiny_base: Base, layouts: dict[str, ZLayout], save: Save, targets: str, by_place: bool
) -> None:
    chosen = {f"{name}.weight" for name in target_names(tiny_base.model, targets)}
    params = params_of(tiny_base.model, chosen.__contains__)
    found = read_reference(save(Policy(params).state_dict() if by_place else params))
    assert found.targets_on(layouts) == targets


def test_names_may_come_in_any_order(mlp: Factors, params: Params, save: Save) -> None:
    turned = dict(reversed(params.items()))
    assert read_reference(save(turned)).z_on(mlp).digest == read_reference(save(params)).z_on(mlp).digest


def test_places_come_in_the_order_of_numbers(mlp: Factors, params: Params, save: Save) -> None:
    state = dict(reversed(Policy(params).state_dict().items()))
    assert read_reference(save(state)).z_on(mlp).digest == read_reference(save(params)).z_on(mlp).digest


GATE = "model.layers.0.mlp.gate_proj"


def _without_gate(params: Params) -> Params:
    return {key: p for key, p in params.items() if key != f"{GATE}.weight"}


def _parameters(params: Params) -> dict[str, nn.Parameter]:
    return {key: nn.Parameter(p) for key, p in params.items()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda params: params | {f"{GATE}.weight": torch.zeros(63)}, rf"63 values for {GATE}, which has 64"),
        (
            lambda params: params | {"model.layers.9.mlp.up_proj.weight": torch.zeros(64)},
            r"layers\.9\.mlp\.up_proj, un",
        ),
        (lambda params: {f"tower.{key}": p for key, p in params.items()}, r"tower\..* and 5 more, unknown"),
        (_without_gate, rf"lacks {GATE}"),
        (lambda params: params | {"model.layers.0.self_attn.q_proj.weight": torch.zeros(64)}, "q_proj, unknown"),
        (lambda params: Policy(_without_gate(params)).state_dict(), "5 vectors; nearest are 6 matrices"),
        (lambda params: Policy({key: p[1:] for key, p in params.items()}).state_dict(), rf"63 values for {GATE}"),
    ],
    ids=["rank", "unknown", "prefix", "missing", "one-of-attention", "too-few-places", "rank-by-place"],
)
def test_a_file_of_other_matrices_is_refused(
    layouts: dict[str, ZLayout], mlp: Factors, params: Params, save: Save, change: Callable[[Params], Any], told: str
) -> None:
    found = read_reference(save(change(params)))
    with pytest.raises(InvalidZ, match=told):
        found.targets_on(layouts)
    with pytest.raises(InvalidZ, match=told):
        found.z_on(mlp)


@pytest.mark.parametrize(
    ("value", "told"),
    [(float("nan"), "64 values that are NaN"), (float("inf"), "infinite"), (-1000.0, "the mask of .* leaves 0 of")],
)
def test_a_p_that_gives_no_z_is_refused_by_matrix(
    mlp: Factors, params: Params, save: Save, value: float, told: str
) -> None:
    found = read_reference(save(params | {f"{GATE}.weight": torch.full((64,), value)}))
    with pytest.raises(InvalidZ, match=told) as refused:
        found.z_on(mlp)
    assert GATE in refused.value.message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.zeros(3)], "holds a list"),
        (torch.zeros(3), r"holds torch\.float32 \[3\]"),
        ({}, "holds nothing"),
        ({"a.weight": {"b": torch.zeros(3)}}, "a dict as 'a.weight'"),
        ({"a.weight": torch.zeros(3, 1)}, r"float32 \[3, 1\]"),
        ({"a.weight": torch.zeros(3, dtype=torch.int64)}, "int64"),
        ({"a.weight": torch.zeros(3).to_sparse()}, "not a vector"),
        ({0: torch.zeros(3)}, "as 0, not"),
        ({"a.U": torch.zeros(3)}, "'a.U', which is the name of no weight"),
        ({f"learnable_params_module_list.{place}": torch.zeros(3) for place in (0, 2)}, r"no learnable.*\.1"),
        ({"adaptive_weights": torch.zeros(3), "weights_0_k_a_weight": torch.zeros(3)}, "a mixture"),
    ],
)
def test_a_file_of_something_else_is_refused(save: Save, content: Any, told: str) -> None:
    with pytest.raises(InvalidZ, match=told):
        read_reference(save(content))


class _Code:
    """What a pickle can carry: a call that is made when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_code_in_a_file_is_not_run(tmp_path: Path, params: Params, save: Save) -> None:
    trap = tmp_path / "trap"
    pickled = pickle.dumps({"a.weight": _Code(trap)}, protocol=2)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickled)
    for path in (plain, save(params | {"a.weight": _Code(trap)})):
        with pytest.raises(InvalidZ, match="nothing of it was run") as refused:
            read_reference(path)
        assert "weights_only" not in str(refused.value), "the remedy must not be to read it without protection"
    assert not trap.exists()
    pickle.loads(pickled)  # noqa: S301  (it is the test's own)
    assert trap.exists(), "the code would have run"


def test_a_damaged_file_is_refused(params: Params, save: Save) -> None:
    path = save(params)
    data = path.read_bytes()
    for content in _damaged(data):
        path.write_bytes(content)
        with pytest.raises(InvalidZ, match=r"file\.pt is truncated, damaged or no file of torch\.save: \w"):
            read_reference(path)


def _damaged(data: bytes) -> Iterator[bytes]:
    yield from (data[:length] for length in (0, 4, 200, len(data) // 2, len(data) - 1))
    yield b"no pickle at all"
    yield pickle.dumps({"a.weight": [1, 2, 3]}, protocol=4)


def test_a_file_that_is_missing_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidZ, match="cannot be read"):
        read_reference(tmp_path / "nowhere.pt")
    huge = tmp_path / "decomposed.pt"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(InvalidZ, match="more than any expert"):
        read_reference(huge)
