"""The plain data of offramp: costs, budgets, records."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from offramp.errors import BudgetError, RecordsError, ValidationError
from offramp.types import Budget, Costs, ExitOutput, Records, Shard


def costs() -> Costs:
    return Costs(
        macs=torch.tensor([20.0, 60.0, 104.0], dtype=torch.float64),
        latency_ms=torch.tensor([2.0, 5.0, 4.5], dtype=torch.float64),
        full={"macs": 100.0, "latency_ms": 5.0},
        batch_size=8,
    )


def some_records(num: int = 6, exits: int = 3, classes: int = 4) -> Records:
    gates = [torch.randn(num), None, torch.randn(num)][:exits]
    return Records.from_arrays(
        torch.randn(exits, num, classes), torch.randint(classes, (num,)), gates
    )


# ------------------------------------------------------------------------ costs
def test_costs_are_relative_to_the_original_network() -> None:
    assert costs().num_exits == 3
    assert costs().relative().tolist() == pytest.approx([0.2, 0.6, 1.04])


def test_measured_latencies_are_made_non_decreasing() -> None:
    assert costs().relative("latency_ms").tolist() == pytest.approx([0.4, 1.0, 1.0])


@pytest.mark.parametrize("unit", ["params", "flops", "full"])
def test_costs_name_the_units_they_know(unit: str) -> None:
    with pytest.raises(ValidationError, match=r"\['macs', 'latency_ms'\], got '" + unit):
        costs().relative(unit)


def test_costs_survive_a_trip_through_plain_numbers() -> None:
    again = Costs.from_dict(costs().to_dict())
    assert again.to_dict() == costs().to_dict()
    assert again.params is None and again.batch_size == 8
    assert again.macs.dtype == torch.float64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "one positive cost"),
        ([0.5, 0.0], "one positive cost"),
        ([[0.5]], "one positive"),
        ([0.6, 0.5], "not decrease"),
        ([0.5, float("nan")], "one positive"),
    ],
)
def test_relative_costs_refuse_what_is_no_cost(values: list, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Costs.from_relative(values)


# ------------------------------------------------------------------------ budgets
def test_budget_resolves_to_the_scale_of_the_relative_costs() -> None:
    assert Budget.of(0.5).resolve(costs())[1] == 0.5
    relative, bound = Budget(4.0, "latency_ms").resolve(costs())
    assert bound == pytest.approx(0.8)
    assert relative.tolist() == pytest.approx([0.4, 1.0, 1.0])
    assert Budget(0.9, "latency_ms", relative=True).resolve(costs())[1] == 0.9


def test_budget_of_a_budget_is_that_budget() -> None:
    budget = Budget(3.0, "latency_ms")
    assert Budget.of(budget) is budget


BAD_VALUES = ["0.5", None, True, float("nan"), float("inf"), -np.inf]


@pytest.mark.parametrize("bad", [*BAD_VALUES, *map(Budget, BAD_VALUES)])  # type: ignore[arg-type]
def test_budget_refuses_what_is_no_finite_number(bad: object) -> None:
    with pytest.raises(BudgetError, match="finite number"):
        Budget.of(bad)  # type: ignore[arg-type]


# ------------------------------------------------------------------------ records
def test_records_know_their_size() -> None:
    records = some_records()
    assert (len(records), records.num_exits, records.num_classes) == (6, 3, 4)
    assert [shard.num_rows for shard in records] == [6] == records.lengths


def test_records_from_arrays_take_numpy_and_any_integer_and_float() -> None:
    logits = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    records = Records.from_arrays(logits, np.array([0, 3, -100], dtype=np.int32))
    assert records.targets.dtype == torch.int64
    assert records.targets.tolist() == [0, 3, -100]
    assert [z.dtype for z in records.logits] == [torch.float32] * 2
    assert torch.stack(records.logits).tolist() == logits.tolist()


def test_records_from_arrays_keep_an_ignored_class_number_out() -> None:
    targets = np.array([0, 255, -1], dtype=np.int64)
    records = Records.from_arrays(torch.zeros(2, 3, 4), targets, ignore_index=255)
    assert records.targets.tolist() == [0, -100, -1]
    assert targets.tolist() == [0, 255, -1]
    with pytest.raises(RecordsError, match="below C=4, got 255"):
        Records.from_arrays(torch.zeros(2, 3, 4), targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_records_from_arrays_lie_on_the_cpu() -> None:
    logits, gates = torch.zeros(2, 3, 4).cuda(), torch.zeros(2, 3).cuda()
    (shard,) = Records.from_arrays(logits, torch.zeros(3).long().cuda(), gates)
    parts = [shard.targets, *(part for out in shard.outputs for part in out)]
    assert {part.device.type for part in parts} == {"cpu"}


def test_records_of_maps_may_differ_in_resolution() -> None:
    logits = [torch.randn(2, 5, 4, 4), torch.randn(2, 5, 8, 8)]
    records = Records.from_arrays(logits, torch.zeros(2, 16, 16, dtype=torch.long))
    assert [tuple(z.shape) for z in records.logits] == [(2, 5, 4, 4), (2, 5, 8, 8)]


def test_records_join_their_shards_in_order() -> None:
    parts = [next(iter(some_records(n))) for n in (2, 5)]
    records = Records(parts)
    assert len(records) == 7
    for k in range(3):
        rows = [row for part in parts for row in part.outputs[k].logits.tolist()]
        assert records.logits[k].tolist() == rows
    assert records.targets.tolist() == parts[0].targets.tolist() + parts[1].targets.tolist()


@pytest.mark.parametrize("as_mask", [False, True])
def test_take_keeps_rows_across_shards(as_mask: bool) -> None:
    records = Records([next(iter(some_records(n))) for n in (2, 3, 4)])
    wanted = [1, 4, 8]
    mask = torch.zeros(9, dtype=torch.bool)
    mask[wanted] = True
    kept = records.take(mask if as_mask else [8, 1, 4, 4])
    assert kept.lengths == [1, 1, 1]
    assert kept.targets.tolist() == [records.targets.tolist()[i] for i in wanted]
    for k in range(3):
        whole = records.logits[k].tolist()
        assert kept.logits[k].tolist() == [whole[i] for i in wanted]
        gates = [shard.outputs[k].gate for shard in records]
        if gates[0] is None:
            assert all(shard.outputs[k].gate is None for shard in kept)
        else:
            every = [g for part in gates for g in part.tolist()]
            assert [s.outputs[k].gate.item() for s in kept] == [every[i] for i in wanted]


def test_take_leaves_out_shards_without_a_row() -> None:
    records = Records([next(iter(some_records(n))) for n in (2, 3, 4)])
    assert records.take([5, 6]).lengths == [2]


class Lazy(Sequence):
    """Shards that count how often each is read."""

    def __init__(self, shards: list[Shard]) -> None:
        self.all, self.read = shards, [0] * len(shards)
        self.lengths = [shard.num_rows for shard in shards]

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, index: int) -> Shard:
        shard = self.all[index]
        self.read[index] += 1
        return shard


def test_lazy_shards_are_read_only_where_needed() -> None:
    lazy = Lazy([next(iter(some_records(n))) for n in (2, 3, 4)])
    records = Records(lazy)
    assert (len(records), records.num_exits, records.num_classes) == (9, 3, 4)
    assert lazy.read == [1, 0, 0]
    records.take([6])
    assert lazy.read == [1, 0, 1]


LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("logits", "targets", "gates", "message"),
    [
        (torch.zeros(2, 3, 4), LABELS[:2], None, r"N=2.*got \(3, 4\) at exit 0"),
        ([torch.zeros(3, 4), torch.zeros(3, 5)], LABELS, None, r"C=4.*got \(3, 5\) at exit 1"),
        (torch.zeros(2, 3, 4, 8, 8), LABELS, None, r"targets \(3,\), got \(3, 4, 8, 8\)"),
        (torch.zeros(2, 3, 2), LABELS, None, "below C=2, got 2"),
        (torch.zeros(2, 3, 4), LABELS.float(), None, "class numbers, got torch.float32"),
        (torch.zeros(2, 3, 4), LABELS, [None], "gates for 2 exits, got 1"),
        (torch.zeros(2, 3, 4), LABELS, torch.zeros(2, 2), r"gate \[N=3\] at exit 0, got \(2,\)"),
        ([], LABELS, None, "one exit and one row, got 0 exits"),
        (torch.zeros(2, 0, 4), LABELS[:0], None, "got 2 exits and 0 rows"),
    ],
)
def test_records_refuse_parts_that_do_not_fit(
    logits: object, targets: object, gates: object, message: str
) -> None:
    with pytest.raises(RecordsError, match=message):
        Records.from_arrays(logits, targets, gates)


def test_records_refuse_shards_that_are_not_alike() -> None:
    first, other = (
        Shard([ExitOutput(torch.zeros(2, 3), gate)] * 2, torch.zeros(2, dtype=torch.long))
        for gate in (None, torch.zeros(2))
    )
    with pytest.raises(RecordsError, match="shards alike"):
        Records([first, other])
    with pytest.raises(RecordsError, match="at least one shard"):
        Records([])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([6], r"rows in 0\.\.5, got 6\.\.6"),
        ([-1, 2], r"got -1\.\.2"),
        ([], "at least one row"),
        (torch.ones(5, dtype=torch.bool), r"mask \[6\]"),
        (torch.zeros(6, dtype=torch.bool), "keeps 0"),
    ],
)
def test_take_refuses_rows_that_are_not_there(rows: object, message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        some_records().take(rows)  # type: ignore[arg-type]
