"""Pytrees of batch-first tensors."""

import pytest
import torch

from offramp.errors import ValidationError
from offramp.trees import map_tensors, move, num_rows, take, tensors


def state() -> dict[str, object]:
    return {
        "hidden": torch.arange(12.0).view(4, 3),
        "scales": [torch.arange(4), (torch.arange(8).view(4, 2, 1),)],
        "size": (7, "seven", None),
    }


def test_map_tensors_touches_tensors_only() -> None:
    doubled = map_tensors(lambda t: t * 2, state())
    assert torch.equal(doubled["hidden"], torch.arange(12.0).view(4, 3) * 2)
    assert torch.equal(doubled["scales"][1][0], torch.arange(8).view(4, 2, 1) * 2)
    assert doubled["size"] == (7, "seven", None)
    assert isinstance(doubled["scales"], list) and isinstance(doubled["scales"][1], tuple)


@pytest.mark.parametrize("rows", [torch.tensor([3, 1]), torch.tensor([False, True, False, True])])
def test_take_keeps_rows_of_every_tensor(rows: torch.Tensor) -> None:
    kept = take(state(), rows)
    wanted = [3, 1] if rows.dtype != torch.bool else [1, 3]
    for came, whole in zip(tensors(kept), tensors(state()), strict=True):
        assert torch.equal(came, torch.stack([whole[i] for i in wanted]))
    assert kept["size"] == (7, "seven", None)


def test_take_of_a_bare_tensor_is_a_tensor() -> None:
    assert take(torch.arange(5), torch.tensor([4, 0])).tolist() == [4, 0]


def test_move_moves_every_tensor() -> None:
    moved = move(state(), "meta")
    assert [t.device.type for t in tensors(moved)] == ["meta"] * 3


@pytest.mark.parametrize(("device", "ahead"), [("cpu", False), ("meta", True)])
def test_move_waits_for_what_goes_to_the_processor(
    device: str, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def to(tensor: torch.Tensor, *_: object, non_blocking: bool = False) -> torch.Tensor:
        asked.append(non_blocking)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    move(state(), device)
    move(state(), torch.device(device))
    assert asked == [ahead] * 6


def test_num_rows_is_the_common_first_dimension() -> None:
    assert num_rows(state()) == 4
    assert num_rows(torch.zeros(0, 3)) == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"a": torch.zeros(3), "b": torch.zeros(4)},
        {"a": 3, "b": "no tensor"},
        [torch.zeros(3), torch.tensor(1.0)],
    ],
    ids=["two sizes", "no tensor", "a scalar"],
)
def test_num_rows_refuses_what_has_no_common_batch(bad: object) -> None:
    with pytest.raises(ValidationError, match="common first dimension"):
        num_rows(bad)
