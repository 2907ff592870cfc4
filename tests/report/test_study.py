"""Runs of one name come together; unlike things are never averaged."""

from __future__ import annotations

from statistics import stdev
from typing import Any

import pytest

from offramp.errors import ReportError
from offramp.report.schema import read_runs
from offramp.report.study import Study, gather

from .made_up import made_up


def study(*runs: dict[str, Any]) -> Study:
    (one,) = gather(read_runs(runs))
    return one


def small(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return made_up(seed=seed, pictures=0, **changes)


def test_points_are_mean_and_range_over_seeds() -> None:
    runs = [small(seed) for seed in (2, 0, 1)]
    curve = study(*runs).curves[0]
    for number, point in enumerate(curve.points):
        given = [run["curves"][curve.policy][number] for run in runs]
        accuracies = [g["accuracy"] for g in given]
        assert point.seeds == (0, 1, 2)
        assert point.accuracy.mean == pytest.approx(sum(accuracies) / 3)
        assert (point.accuracy.low, point.accuracy.high) == (min(accuracies), max(accuracies))
        assert point.cost.mean == pytest.approx(sum(g["cost"] for g in given) / 3)
        drops = [run["full"]["accuracy"] - a for run, a in zip(runs, accuracies, strict=True)]
        assert point.drop.mean == pytest.approx(sum(drops) / 3)
        assert point.drop.high == pytest.approx(max(drops))
        assert sum(point.rates) == pytest.approx(1)


def test_budgets_that_differ_are_not_averaged() -> None:
    runs = [small(0, budgets=(0.4, 0.5)), small(1, budgets=(0.45, 0.1 + 0.4))]
    points = study(*runs).curves[0].points
    assert [(p.budget, p.seeds) for p in points] == [(0.4, (0,)), (0.45, (1,)), (0.5, (0, 1))]


def test_policies_that_a_seed_lacks_are_of_the_others() -> None:
    runs = [small(0), small(1, policies=("max_prob",))]
    curves = {curve.policy: curve for curve in study(*runs).curves}
    assert {p.seeds for p in curves["patience"].points} == {(0,)}
    assert {p.seeds for p in curves["max_prob"].points} == {(0, 1)}
    assert [c.policy for c in curves.values() if c.control] == ["random", "oracle"]


def test_calibration_pools_answers_not_seeds() -> None:
    runs = [small(0), small(1)]
    for run, num, right in zip(runs, (30, 10), (0.5, 0.9), strict=True):
        run["calibration"][1][14] = {"confidence": 0.95, "accuracy": right, "count": num}
    runs[0]["calibration"][1][0] = {"confidence": None, "accuracy": None, "count": 0}
    runs[1]["calibration"][1][0] = {"confidence": None, "accuracy": None, "count": 0}
    bins = (study(*runs).calibration or [])[1]
    assert bins[14].num == 40
    assert bins[14].accuracy == pytest.approx((30 * 0.5 + 10 * 0.9) / 40)
    assert bins[0] == (0, None, None)


def test_names_are_studies_in_the_order_they_come() -> None:
    runs = [small(0, name="b"), small(0, name="a"), small(1, name="b")]
    assert [(s.name, s.seeds) for s in gather(read_runs(runs))] == [("b", [0, 1]), ("a", [0])]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 0}, "run 1: seed: wanted every seed.*got 0 again, which run 0 has"),
        ({"seed": 1, "exits": 5}, "run 1: num_exits: wanted 4.*got 5"),
        ({"seed": 1, "classes": ["a"] * 10}, "run 1: class_names: "),
    ],
)
def test_runs_of_one_name_that_are_not_alike_are_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ReportError, match=said):
        study(small(), small(**changes))


def test_two_units_are_refused() -> None:
    with pytest.raises(ReportError, match=r"run 1: unit: wanted 'macs'.*got 'params'"):
        gather(read_runs([small(name="a"), small(name="b") | {"unit": "params"}]))


def test_bins_that_differ_are_refused() -> None:
    other = small(1)
    other["calibration"] = [bins[:10] for bins in other["calibration"]]
    with pytest.raises(ReportError, match=r"calibration: .*\[10, 15\]"):
        study(small(), other)


def test_times_are_grouped_by_policy_budget_and_batch_size() -> None:
    runs = [small(0), small(1), small(2, clock=False)]
    timings = study(*runs).timings
    assert len(timings) == 18
    assert {timing.ms.num for timing in timings} == {2}
    mean = sum(run["clock"][0]["ms"] for run in runs[:2]) / 2
    assert timings[0].ms.mean == pytest.approx(mean)


def learned(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return small(seed, policies=("gate", "max_prob"), rules=("gate",), **changes)


def test_rules_are_points_of_their_own_beside_the_budgets() -> None:
    runs = [learned(0), learned(1), small(2, policies=("gate", "max_prob"))]
    gate, *others = study(*runs).curves
    rules = [run["rules"]["gate"] for run in runs[:2]]
    assert gate.rule is not None and gate.rule.seeds == (0, 1)
    assert gate.rule.cost.mean == pytest.approx(sum(rule["cost"] for rule in rules) / 2)
    assert gate.rule.accuracy.low == min(rule["accuracy"] for rule in rules)
    assert all(curve.rule is None for curve in others)
    assert gate.all_points == [*gate.points, gate.rule]


def test_error_of_one_run_is_its_standard_error_that_of_several_their_range() -> None:
    given = learned()["curves"]["max_prob"][2]
    alone = study(learned()).curves[1].points[2]
    for key, error in (("accuracy", "stderr"), ("cost", "cost_stderr")):
        bar = getattr(alone, key).bar
        assert bar == pytest.approx((given[key] - given[error], given[key] + given[error]))
    several = study(learned(0), learned(1), learned(2)).curves[1].points[2]
    assert several.cost.bar == (several.cost.low, several.cost.high)
    before = study(small()).curves[0].points[2]  # results that tell nothing of the error of costs
    assert before.cost.bar is before.accuracy.bar is before.rate_errors is None


def test_errors_of_exit_rates_are_over_seeds_or_over_inputs() -> None:
    runs = [learned(seed) for seed in range(3)]
    rates = [[run["curves"]["gate"][1]["exit_rates"][k] for run in runs] for k in range(4)]
    several = study(*runs).curves[0].points[1]
    wanted = [stdev(column) / 3**0.5 for column in rates]
    assert several.rate_errors == pytest.approx(wanted)
    alone = study(runs[0]).curves[0].points[1]
    assert alone.rate_errors == pytest.approx([(r * (1 - r) / 2000) ** 0.5 for r, *_ in rates])


def test_counted_cost_follows_from_the_exits() -> None:
    run = learned()
    macs, full = run["costs"]["macs"], run["costs"]["full"]["macs"]
    for given, point in zip(run["curves"]["gate"], study(run).curves[0].points, strict=True):
        counted = sum(r * m for r, m in zip(given["exit_rates"], macs, strict=True))
        assert point.macs is not None and point.macs.mean == pytest.approx(counted)
        assert point.macs.stderr == pytest.approx(given["cost_stderr"] * full)
    del run["costs"]["macs"]
    assert study(run).curves[0].points[0].macs is None


def test_examined_inputs_of_all_seeds_count_the_same() -> None:
    runs = [learned(0), learned(1)]
    for name, counts in study(*runs).examined["gate"].items():
        given = [run["examine"]["gate"][name] for run in runs]
        assert counts[2][1][0][1] == sum(each[2][1][0][1] for each in given)
        assert sum(n for square in counts[0] for row in square for n in row) == 4000


def test_rule_of_a_policy_without_a_curve_is_refused() -> None:
    run = learned()
    run["rules"]["other"] = run["rules"]["gate"]
    with pytest.raises(ReportError, match=r"rules: wanted.*'gate', 'max_prob'.*'other'"):
        study(run)
