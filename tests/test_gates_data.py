"""What gates are fitted on is what the model itself computes, and the model stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import DataError, ValidationError
from offramp.functional import upsample
from offramp.gates import GateData, cache_gates
from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.train import gate_data
from offramp.train.gate_data import linear_gates
from offramp.trees import take

from .families.toys import TASKS, toy


def cached(task: str, rows: int = 30, **options: Any) -> tuple[GateData, Any, Tensor]:
    """Data of the first rows of a toy, and those rows."""
    made = toy(task)
    first = torch.arange(rows)
    inputs, targets = take(made.inputs, first), made.targets[first]
    data = cache_gates(made.model, (inputs, targets), progress=False, batch_size=8, **options)
    return data, inputs, targets


@pytest.mark.parametrize("task", TASKS)
def test_features_through_a_gates_own_layer_are_its_logits(task: str) -> None:
    data, inputs, _ = cached(task)
    model = toy(task).model
    with torch.no_grad():
        outputs = model(inputs)
    for part, gate, out in zip(data.features, linear_gates(model), outputs, strict=False):
        assert part.dtype == torch.float32 and not part.requires_grad
        torch.testing.assert_close(gate(part).squeeze(1), out.gate, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["label", "map", "pyramid"])
def test_losses_and_answers_equal_a_loop_over_positions(task: str) -> None:
    made = toy(task)
    targets = made.targets[:6].clone()
    targets.view(-1)[::5] = 255
    data = cache_gates(made.model, (made.inputs[:6], targets), ignore_index=255, progress=False)
    with torch.no_grad():
        outputs = made.model(made.inputs[:6])
    for k, out in enumerate(outputs):
        log_p = upsample(out.logits, targets.shape[1:]).log_softmax(1)
        log_p = log_p.reshape(6, log_p.shape[1], -1)
        for n, row in enumerate(targets.reshape(6, -1).tolist()):
            counted = [(p, c) for p, c in enumerate(row) if c != 255]
            losses = [-float(log_p[n, c, p]) for p, c in counted]
            hits = [int(log_p[n, :, p].argmax()) == c for p, c in counted]
            num = max(1, len(counted))
            assert float(data.units[n]) == len(counted)
            assert float(data.losses[n, k]) == pytest.approx(sum(losses) / num, abs=1e-4)
            assert float(data.right[n, k]) == pytest.approx(sum(hits) / num, abs=1e-6)


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    model = toy("attached").model
    model.train()
    model.heads[1].eval()
    modes = [m.training for m in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    try:
        cached("attached")
        assert [m.training for m in model.modules()] == modes
    finally:
        model.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[n]) for n, value in model.state_dict().items())
    assert not any(gate._forward_pre_hooks for gate in linear_gates(model))


def test_data_do_not_depend_on_the_batch_size_or_on_the_kind_of_data() -> None:
    made = toy("label")
    pair = (made.inputs[:20], made.targets[:20])
    rows = torch.utils.data.TensorDataset(*pair)
    loader = torch.utils.data.DataLoader(rows, batch_size=7)
    first = cache_gates(made.model, pair, progress=False)
    for data in (cache_gates(made.model, each, progress=False) for each in (rows, loader)):
        for one, other in zip(data.features, first.features, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(data.losses, first.losses)


def test_take_keeps_rows_of_everything() -> None:
    data, _, _ = cached("label")
    some = data.take(torch.tensor([3, 1]))
    assert (some.num_rows, some.num_exits) == (2, 4)
    assert torch.equal(some.losses, data.losses[[3, 1]])
    assert all(torch.equal(a, b[[3, 1]]) for a, b in zip(some.features, data.features, strict=True))
    with pytest.raises(ValidationError, match="at least one row"):
        data.take(torch.zeros(30, dtype=torch.bool))


def test_wide_features_are_kept_in_16_bits_and_cannot_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow, _, _ = cached("label")
    monkeypatch.setattr(gate_data, "_WIDE", 4 * 36 * 30 - 1)  # what 3 gates of 12 take for 30 rows
    data, _, _ = cached("label")
    assert {part.dtype for part in data.features} == {torch.float16}
    for half, full in zip(data.features, narrow.features, strict=True):
        torch.testing.assert_close(half.float(), full, rtol=1e-3, atol=1e-3)
    assert data.losses.dtype == torch.float32
    assert torch.equal(
        gate_data._kept(torch.tensor([1e9, -1e9]), torch.float16),
        torch.tensor([65504.0, -65504.0]).half(),
    )


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ([None, nn.Linear(4, 1)], "one gate at every early exit, got 0 at exit 0; gate=True"),
        ([nn.Linear(4, 1), nn.Linear(4, 2)], "one logit, with a bias, as gate of exit 1"),
        ([nn.Linear(4, 1, bias=False), nn.Linear(4, 1)], "with a bias, as gate of exit 0"),
        ([nn.Sequential(nn.Linear(4, 1)), nn.Linear(4, 1)], "as gate of exit 0, got Sequential"),
    ],
)
def test_gates_that_cannot_be_fitted_are_refused(gates: list[Any], message: str) -> None:
    heads = [LinearHead(4, 3) for _ in range(3)]
    for head, gate in zip(heads, gates, strict=False):
        head.gate = gate
    model = MultiExitModel([nn.Identity() for _ in heads], heads)
    with pytest.raises(ValidationError, match=message):
        cache_gates(model, (torch.zeros(5, 4), torch.zeros(5).long()), progress=False)


def test_other_bad_inputs_are_refused() -> None:
    model, pair = toy("label").model, (toy("label").inputs, toy("label").targets)
    single = MultiExitModel([nn.Identity()], [LinearHead(4, 3, gate=True)])
    with pytest.raises(ValidationError, match="single exit"):
        cache_gates(single, pair)
    with pytest.raises(ValidationError, match=r"MultiExitModel.*Linear"):
        cache_gates(nn.Linear(2, 2), pair)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="batch_size of at least 1, got 0"):
        cache_gates(model, pair, batch_size=0)
    with pytest.raises(DataError, match=r"wanted a pair.*got str"):
        cache_gates(model, "mnist")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="targets below C=5, got 9"):
        cache_gates(model, (pair[0], pair[1] * 0 + 9), progress=False)


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    made = toy("label")
    cache_gates(made.model, (made.inputs[:9], made.targets[:9]))
    captured = capsys.readouterr()
    assert "gates" in captured.err and captured.out == ""
