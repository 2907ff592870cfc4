"""Evaluation of policies on records, against slow literal loops."""

import csv
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import offramp.metrics
from offramp.errors import BudgetError, OptionError, UnknownNameError, ValidationError
from offramp.evaluate import (
    Evaluator,
    Result,
    area_under_curve,
    curve,
    evaluate,
    evaluate_exits,
    evaluate_points,
    save_csv,
    save_json,
)
from offramp.policies.base import Control, ExitPolicy, register
from offramp.policies.max_prob import MaxProb
from offramp.records import load_records, save_records
from offramp.registry import policies
from offramp.types import Budget, Carry, Costs, ExitOutput, Records

COSTS = Costs(
    macs=torch.tensor([30.0, 60.0, 102.0], dtype=torch.float64),
    latency_ms=torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64),
    full={"macs": 100.0, "latency_ms": 4.0},
)


def label_records(num: int = 120, classes: int = 6, exits: int = 3) -> Records:
    """Exits that are better the later they come, in shards of 50 rows."""
    targets = torch.randint(classes, (num,))
    truth = F.one_hot(targets, classes).float()
    logits = [truth * (1.5 + k) + torch.randn(num, classes) for k in range(exits)]
    return Records(
        [
            Records.from_arrays([z[i : i + 50] for z in logits], targets[i : i + 50]).shards[0]
            for i in range(0, num, 50)
        ]
    )


def map_records(num: int = 20, classes: int = 5) -> Records:
    targets = torch.randint(-1, classes - 1, (num, 6, 8))  # the last class is not wanted
    logits = [torch.randn(num, classes, *size) * 2 for size in ((2, 2), (3, 4), (6, 8))]
    return Records.from_arrays(logits, targets)


class Averaging(ExitPolicy):
    """Answers with the mean of the logits so far, so that answers are not the exits' own."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        total = out.logits
        if carry:
            earlier = carry["total"]
            if earlier.dim() == 4:
                earlier = F.interpolate(earlier, total.shape[2:])
            total = total + earlier
        return out.logits.amax(1), {"total": total}

    def answer(self, k: int, out: ExitOutput, carry: Carry) -> Tensor:
        return carry["total"] / (k + 1)


def literal_answers(policy: ExitPolicy, records: Records) -> tuple[list[int], list[Tensor]]:
    """The exit of each row and its answer, one row at a time, leaving as a run would."""
    exits, answers = [], []
    for i in range(len(records)):
        carry: Carry = {}
        for k in range(records.num_exits):
            decision = policy(k, ExitOutput(records.logits[k][i : i + 1]), carry)
            carry = decision.carry
            if bool(decision.leave):
                exits.append(k)
                answers.append(decision.logits)
                break
    return exits, answers


def literal_accuracy(answers: list[Tensor], targets: Tensor) -> tuple[float, float]:
    """Accuracy and negative log-likelihood over positions whose target is not negative."""
    hits = num = 0
    nll = 0.0
    for logits, target in zip(answers, targets, strict=True):
        if logits.dim() == 4 and logits.shape[2:] != target.shape:
            logits = F.interpolate(logits, target.shape, mode="bilinear", align_corners=False)
        columns = logits[0].reshape(logits.shape[1], -1).T.tolist()
        for column, wanted in zip(columns, target.flatten().tolist(), strict=True):
            if wanted >= 0:
                num += 1
                hits += max(range(len(column)), key=lambda c, z=column: (z[c], -c)) == wanted
                nll += math.log(sum(math.exp(z) for z in column)) - column[wanted]
    return hits / num, nll / num


# ------------------------------------------------------------------------ evaluate
@pytest.mark.parametrize("kind", [MaxProb, Averaging])
@pytest.mark.parametrize("make", [label_records, map_records])
@pytest.mark.parametrize("unit", ["macs", "latency_ms"])
def test_evaluate_equals_answering_row_by_row(kind: type, make: object, unit: str) -> None:
    records = make()
    policy = kind(3).fit(make(), COSTS, 0.6)
    result = evaluate(policy, records, COSTS, unit=unit)
    exits, answers = literal_answers(policy, records)
    assert len(set(exits)) == 3
    accuracy, nll = literal_accuracy(answers, records.targets)
    assert result.accuracy == pytest.approx(accuracy)
    assert result.nll == pytest.approx(nll, rel=1e-5)
    assert result.exit_counts == [exits.count(k) for k in range(3)]
    assert result.exit_rates == [exits.count(k) / len(records) for k in range(3)]
    assert sum(result.exit_rates) == pytest.approx(1)
    scale = {"macs": [0.3, 0.6, 1.02], "latency_ms": [0.5, 0.75, 1.25]}[unit]
    assert result.cost == pytest.approx(sum(scale[k] for k in exits) / len(records))
    squares = sum((scale[k] - result.cost) ** 2 for k in exits) / len(records)
    assert result.cost_stderr == pytest.approx(math.sqrt(squares / len(records)))
    assert (result.unit, result.num, result.budget) == (unit, len(records), None)
    full, _ = literal_accuracy(
        [records.logits[2][i : i + 1] for i in range(len(records))], records.targets
    )
    assert result.full_accuracy == pytest.approx(full)
    assert result.drop == pytest.approx(full - accuracy)
    assert [alone.cost for alone in result.exits] == pytest.approx(scale)
    assert [alone.rate for alone in result.exits] == result.exit_rates


@pytest.mark.parametrize("kind", [MaxProb, Averaging])
@pytest.mark.parametrize(("temperature", "points"), [(False, 2), (True, 2), (True, 4)])
def test_results_of_maps_have_the_iou_of_a_literal_loop(
    kind: type, temperature: bool, points: int
) -> None:
    records = map_records()
    policy = kind(3, temperature=temperature)
    policy.fit_points(map_records(), COSTS, [0.5, 0.8, 0.6, 0.4][:points])
    for point, result in evaluate_points(policy, records, COSTS).items():
        _, answers = literal_answers(policy.use(point), records)
        assert result.miou == pytest.approx(literal_miou(answers, records.targets))
        again = evaluate(policy, records, COSTS)
        assert result.exit_counts == again.exit_counts
        for name in ("accuracy", "miou", "nll", "ece", "stderr"):
            assert getattr(result, name) == pytest.approx(getattr(again, name), rel=1e-9)
    for k, exit in enumerate(evaluate_exits(records, COSTS)):
        own = [records.logits[k][i : i + 1] for i in range(len(records))]
        assert exit.miou == pytest.approx(literal_miou(own, records.targets))
        assert exit.iou is not None and len(exit.iou) == 5
        assert exit.iou[4] == 0  # answered, and never wanted


def literal_miou(answers: list[Tensor], targets: Tensor) -> float:
    """Mean over classes of the intersection over union, by sets of positions."""
    said, wanted = set(), set()
    for row, (logits, target) in enumerate(zip(answers, targets, strict=True)):
        grown = F.interpolate(logits, target.shape, mode="bilinear", align_corners=False)
        labels = grown[0].argmax(0)
        for y, x in (target >= 0).nonzero().tolist():
            said.add((row, y, x, int(labels[y, x])))
            wanted.add((row, y, x, int(target[y, x])))
    shares = []
    for c in range(5):
        one, two = ({at for at in places if at[3] == c} for places in (said, wanted))
        if one | two:
            shares.append(len(one & two) / len(one | two))
    return sum(shares) / len(shares)


def test_results_of_labels_have_no_iou() -> None:
    result = evaluate(MaxProb(3), label_records(), COSTS)
    assert result.miou is None
    assert "miou" not in result.to_dict() and "miou" not in result.to_dict()["exits"][0]


def test_points_of_maps_are_measured_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    whole = offramp.metrics.measure_units
    monkeypatch.setattr(
        offramp.metrics, "measure_units", lambda *a: measured.append(len(a[0])) or whole(*a)
    )
    budgets = [0.4, 0.5, 0.6, 0.7, 0.8]
    for temperature, passes in ((False, 1), (True, 2)):
        measured.clear()
        policy = MaxProb(3, temperature=temperature).fit_points(map_records(), COSTS, budgets)
        assert len(evaluate_points(policy, map_records(), COSTS)) == 5
        assert sum(measured) == passes * 3 * 20  # every exit of every input


def test_calibration_error_of_the_answers_is_not_that_of_an_exit() -> None:
    records = label_records()
    policy = MaxProb(3).fit(label_records(), COSTS, 0.6)
    _, answers = literal_answers(policy, records)
    bins: dict[int, list[float]] = {}
    for logits, target in zip(answers, records.targets.tolist(), strict=True):
        confidence = float(logits.double().softmax(1).max())
        gap = float(int(logits.argmax()) == target) - confidence
        bins.setdefault(math.ceil(confidence * 15), []).append(gap)
    wanted = sum(abs(sum(gaps)) for gaps in bins.values()) / len(records)
    assert evaluate(policy, records, COSTS).ece == pytest.approx(wanted)


def test_a_policy_that_is_not_fitted_is_the_full_network() -> None:
    result = evaluate(MaxProb(3), label_records(), COSTS)
    assert result.exit_counts == [0, 0, 120]
    assert result.cost == pytest.approx(1.02)
    assert result.drop == 0
    assert (result.nll, result.ece) == (result.exits[-1].nll, result.exits[-1].ece)


def test_exits_are_the_networks_own_whatever_the_policy_answers() -> None:
    records = label_records()
    result = evaluate(Averaging(3).fit(label_records(), COSTS, 0.6), records, COSTS)
    alone = evaluate_exits(records, COSTS)
    assert [replace(exit, rate=None) for exit in result.exits] == alone
    assert [exit.exit for exit in alone] == [0, 1, 2]
    for k, exit in enumerate(alone):
        own = [records.logits[k][i : i + 1] for i in range(len(records))]
        accuracy, nll = literal_accuracy(own, records.targets)
        assert (exit.top1, exit.nll) == pytest.approx((accuracy, nll), rel=1e-5)
        assert exit.rate is None


def test_result_on_a_hand_made_case() -> None:
    sure, unsure, wrong = [9.0, 0.0], [1.0, 0.0], [0.0, 9.0]
    by_row = [  # two exits of four rows; all targets are 0
        [sure, wrong],  # leaves early and is right: the last exit overthinks it
        [unsure, sure],
        [wrong, sure],  # leaves early and is wrong
        [unsure, wrong],  # stays and is wrong; the first exit was right: overthinking
    ]
    records = Records.from_arrays(torch.tensor(by_row).transpose(0, 1), torch.zeros(4).long())
    policy = MaxProb(2)
    policy.thresholds[0] = 4.0
    result = evaluate(policy, records, Costs.from_relative([0.4, 1.0]))
    assert result.exit_counts == [2, 2]
    assert result.accuracy == 0.5 and result.full_accuracy == 0.5 and result.drop == 0
    assert result.overthinking == 0.5
    assert result.cost == pytest.approx(0.7)
    assert result.stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 4))
    assert result.policy == "max_prob"


def test_ignored_class_does_not_count() -> None:
    records = label_records()
    keep = records.targets != 2
    policy = MaxProb(3).fit(label_records(), COSTS, 0.6)
    came = evaluate(policy, records, COSTS, ignore_index=2)
    wanted = evaluate(policy, records.take(keep), COSTS)
    assert came.accuracy == pytest.approx(wanted.accuracy)
    assert came.overthinking == pytest.approx(wanted.overthinking)
    assert came.num == 120  # all inputs were run, and cost


def test_stored_records_give_the_same_result(tmp_path: Path) -> None:
    records = label_records()
    policy = MaxProb(3).fit(label_records(), COSTS, 0.6)
    stored = save_records(records, tmp_path, shard_rows=7)
    came, wanted = evaluate(policy, stored, COSTS), evaluate(policy, records, COSTS)
    assert came.exit_counts == wanted.exit_counts
    assert came.accuracy == wanted.accuracy
    assert came.nll == pytest.approx(wanted.nll)


def test_a_policy_that_is_not_registered_goes_by_its_class() -> None:
    assert evaluate(Averaging(3), label_records(), COSTS).policy == "Averaging"


def test_a_control_is_evaluated_by_its_scores_over_records() -> None:
    class Even(Control):
        def scores(self, records: Records) -> Tensor:
            even = torch.arange(len(records)) % 2 == 0
            return even.float().unsqueeze(1).repeat(1, records.num_exits)

    policy = Even(3)
    policy.thresholds[0] = 0.5
    assert evaluate(policy, label_records(), COSTS).exit_counts == [60, 0, 60]


@pytest.mark.parametrize(
    ("exits", "costs", "unit", "message"),
    [
        (4, COSTS, "macs", "policy of 3 exits.*got 4"),
        (3, Costs.from_relative([0.5, 1.0]), "macs", "costs of 3 exits.*got 2"),
        (3, COSTS, "params", "units .*got 'params'"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(
    exits: int, costs: Costs, unit: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        evaluate(MaxProb(exits), label_records(), costs, unit=unit)


# ------------------------------------------------------------------------ replays
def literal_examine(policy: ExitPolicy, records: Records, point: str) -> list:
    """Counts by exit, says leave, right here, right at the last exit, one input at a time."""
    policy.use(point)
    counts = [[[[0, 0], [0, 0]], [[0, 0], [0, 0]]] for _ in range(records.num_exits)]
    for i, target in enumerate(records.targets.tolist()):
        outs = [ExitOutput(z[i : i + 1]) for z in records.logits]
        right, carry = [int(int(out.logits.argmax()) == target) for out in outs], {}
        for k, out in enumerate(outs if target >= 0 else []):
            decision = policy(k, out, carry)
            carry = decision.carry
            counts[k][int(decision.leave)][right[k]][right[-1]] += 1
    return counts


@pytest.mark.parametrize("temperature", [False, True])
def test_replays_count_who_is_right_as_a_literal_loop(temperature: bool) -> None:
    records = label_records()
    records.shards[0].targets[:9] = -100
    policy = MaxProb(3, temperature=temperature).fit_points(label_records(), COSTS, [0.4, 0.8])
    replays = Evaluator(records, COSTS).replays(policy.settings())
    assert list(replays) == ["0", "1"]
    for point, replay in replays.items():
        assert replay.examined == literal_examine(policy, records, point)
        assert [sum(torch.tensor(one).flatten().tolist()) for one in replay.examined] == [111] * 3
        assert torch.equal(replay.exits, policy.use(point).exits(records))
        assert replay.result == evaluate(policy, records, COSTS)


def test_replays_of_maps_count_nobody_as_right() -> None:
    replay = Evaluator(map_records(), COSTS).replays({"": MaxProb(3)})[""]
    assert replay.examined is None


def test_replays_score_what_differs_in_thresholds_alone_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored = []
    whole = MaxProb.scores
    monkeypatch.setattr(MaxProb, "scores", lambda self, r: scored.append(1) or whole(self, r))
    policy = MaxProb(3).fit_points(label_records(), COSTS, [0.4, 0.6, 0.8])
    scored.clear()
    Evaluator(label_records(), COSTS).replays({**policy.settings(), "unfitted": MaxProb(3)})
    assert len(scored) == 1


# ------------------------------------------------------------------------ curve
BUDGETS = [0.4, 0.6, 0.8, 1.0]


def test_curve_is_one_fit_and_one_evaluation_per_budget() -> None:
    calibration, test = label_records(), label_records()
    results = curve("max_prob", calibration, test, COSTS, BUDGETS)
    assert [result.budget for result in results] == BUDGETS
    for budget, result in zip(BUDGETS, results, strict=True):
        policy = MaxProb(3).fit(calibration, COSTS, budget)
        assert result == replace(evaluate(policy, test, COSTS), budget=budget)


def test_curve_keeps_within_the_budget_on_what_it_was_fitted_on() -> None:
    calibration = label_records()
    again = Records(list(calibration.shards))  # the same rows, to see the fit from inside
    results = curve("max_prob", calibration, again, COSTS, BUDGETS)
    for budget, result in zip(BUDGETS, results, strict=True):
        assert result.cost <= budget
        assert result.cost > budget - 0.05
    assert all(a.cost < b.cost for a, b in pairwise(results))


def test_curve_passes_options_and_leaves_a_given_policy_as_it_is() -> None:
    calibration, test = label_records(), label_records()
    policy = MaxProb(3, temperature=True)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    given = curve(policy, calibration, test, COSTS, [0.5, 0.9])
    assert all(torch.equal(policy.state_dict()[name], value) for name, value in before.items())
    assert given == curve("max_prob", calibration, test, COSTS, [0.5, 0.9], temperature=True)
    plain = curve("max_prob", calibration, test, COSTS, [0.5, 0.9])
    assert given[0].nll != plain[0].nll


def test_curve_measures_the_exits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = offramp.metrics.measure_exits
    monkeypatch.setattr(offramp.metrics, "measure_exits", lambda *a: calls.append(1) or whole(*a))
    curve("max_prob", label_records(), label_records(), COSTS, BUDGETS)
    assert len(calls) == 1


def test_curve_reads_bare_budgets_in_its_unit_and_budgets_as_they_are() -> None:
    parts = label_records(), label_records()
    bare = curve("max_prob", *parts, COSTS, [0.75], unit="latency_ms")
    absolute = curve("max_prob", *parts, COSTS, [Budget(3.0, "latency_ms")], unit="latency_ms")
    assert bare == absolute
    assert (bare[0].budget, bare[0].unit) == (0.75, "latency_ms")
    with pytest.raises(ValidationError, match="budgets in macs, got one in latency_ms"):
        curve("max_prob", *parts, COSTS, [0.5, Budget(3.0, "latency_ms")])


def test_curve_refuses_to_be_fitted_on_the_test_part(tmp_path: Path) -> None:
    records = label_records()
    stored = save_records(records, tmp_path)
    for calibration, test in (
        (records, records),
        (records, Records(records.shards)),
        (stored, load_records(tmp_path)),
    ):
        with pytest.raises(ValidationError, match="disjoint, got the same records"):
            curve("max_prob", calibration, test, COSTS, [0.5])


def test_curve_says_what_is_wrong() -> None:
    parts = label_records(), label_records()
    with pytest.raises(ValidationError, match="at least one budget"):
        curve("max_prob", *parts, COSTS, [])
    with pytest.raises(BudgetError, match=r"reachable range is \[0\.3, 1\.02\]"):
        curve("max_prob", *parts, COSTS, [0.5, 0.1])
    with pytest.raises(UnknownNameError, match="max_prob"):
        curve("max_probe", *parts, COSTS, [0.5])
    with pytest.raises(OptionError, match="patience"):
        curve("max_prob", *parts, COSTS, [0.5], patience=3)
    with pytest.raises(OptionError, match="takes no options, got temperature"):
        curve(MaxProb(3), *parts, COSTS, [0.5], temperature=True)


def test_a_new_policy_is_found_by_name() -> None:
    register("averaging_of_this_test")(Averaging)
    try:
        results = curve("averaging_of_this_test", label_records(), label_records(), COSTS, [0.6])
        assert results[0].policy == "averaging_of_this_test"
    finally:
        policies.remove("averaging_of_this_test")


# ------------------------------------------------------------------------ area
def at(cost: float, accuracy: float) -> Result:
    result = evaluate(MaxProb(3), label_records(60), COSTS)
    return replace(result, cost=cost, accuracy=accuracy)


def test_area_is_the_mean_accuracy_over_the_range_of_costs() -> None:
    points = [(0.2, 0.5), (0.4, 0.9), (0.9, 0.8), (1.0, 0.9)]
    wanted = 0.0
    for (c0, a0), (c1, a1) in pairwise(points):
        wanted += (c1 - c0) * (a0 + a1) / 2
    shuffled = [at(*points[i]) for i in (2, 0, 3, 1)]
    assert area_under_curve(shuffled) == pytest.approx(wanted / 0.8)
    assert area_under_curve([at(0.3, 0.7), at(0.5, 0.7), at(0.8, 0.7)]) == pytest.approx(0.7)


@pytest.mark.parametrize("costs", [[], [0.5], [0.5, 0.5]])
def test_area_needs_two_distinct_costs(costs: list[float]) -> None:
    with pytest.raises(ValidationError, match="two distinct costs"):
        area_under_curve([at(cost, 0.5) for cost in costs])


def test_area_refuses_to_mix_units() -> None:
    with pytest.raises(ValidationError, match="one unit, got latency_ms, macs"):
        area_under_curve([at(0.2, 0.5), replace(at(0.4, 0.5), unit="latency_ms")])


# ------------------------------------------------------------------------ files
def test_json_holds_every_figure(tmp_path: Path) -> None:
    results = curve("max_prob", label_records(), label_records(), COSTS, [0.5, 0.9])
    save_json(results, tmp_path / "new" / "results.json")
    results[0].save_json(tmp_path / "one.json")
    plain = json.loads((tmp_path / "new" / "results.json").read_text())
    assert plain == [result.to_dict() for result in results]
    assert json.loads((tmp_path / "one.json").read_text()) == plain[0]
    for row, result in zip(plain, results, strict=True):
        for name in ("policy", "unit", "budget", "num", "accuracy", "stderr", "cost", "drop"):
            assert row[name] == getattr(result, name)
        assert row["cost_stderr"] == result.cost_stderr > 0
        for name in ("full_accuracy", "nll", "ece", "overthinking", "exit_rates", "exit_counts"):
            assert row[name] == getattr(result, name)
        assert [alone["top5"] for alone in row["exits"]] == [e.top5 for e in result.exits]
        assert sorted(row["exits"][0]) == ["cost", "ece", "exit", "nll", "rate", "top1", "top5"]


def test_csv_has_one_flat_row_per_result(tmp_path: Path) -> None:
    results = curve("max_prob", label_records(), label_records(), COSTS, [0.5, 0.9])
    results.append(evaluate(MaxProb(2), label_records(exits=2), Costs.from_relative([0.5, 1.0])))
    save_csv(results, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row, result in zip(rows, results, strict=True):
        figures = (
            "accuracy",
            "stderr",
            "cost",
            "cost_stderr",
            "drop",
            "full_accuracy",
            "nll",
            "ece",
        )
        for name in figures:
            assert float(row[name]) == getattr(result, name)
        assert (row["policy"], int(row["num"])) == ("max_prob", 120)
        for k, alone in enumerate(result.exits):
            assert int(row[f"count_{k}"]) == result.exit_counts[k]
            for name in ("rate", "top1", "top5", "nll", "ece", "cost"):
                assert float(row[f"{name}_{k}"]) == getattr(alone, name)
    assert [row["budget"] for row in rows] == ["0.5", "0.9", ""]
    assert rows[2]["rate_2"] == ""


def test_figures_that_are_not_finite_are_null_in_json() -> None:
    result = replace(at(0.5, 0.5), nll=float("inf"), ece=float("nan"))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["nll"] is None and plain["ece"] is None


def test_files_of_maps_hold_iou_and_leave_absent_classes_unknown(tmp_path: Path) -> None:
    records = map_records()
    for shard in records:
        for out in shard.outputs:
            out.logits[:, 4] = -99.0
    result = evaluate(MaxProb(3), records, COSTS)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["miou"] == result.miou == plain["exits"][2]["miou"]
    assert plain["exits"][0]["iou"][4] is None and plain["exits"][0]["iou"][3] > 0
    save_csv([result], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert float(row["miou"]) == float(row["miou_2"]) == result.miou
    assert "iou_0" not in row


def test_evaluate_points_is_evaluate_at_each_point() -> None:
    torch.manual_seed(3)
    calibration, test = (
        Records.from_arrays(torch.randn(3, 60, 4), torch.arange(60) % 4) for _ in range(2)
    )
    costs = Costs.from_relative([0.3, 0.6, 1.0])
    policy = MaxProb(num_exits=3).fit_points(calibration, costs, [0.4, 0.8])
    before = policy.thresholds.clone()
    found = evaluate_points(policy, test, costs)
    assert torch.equal(policy.thresholds, before)
    assert found == {name: evaluate(policy.use(name), test, costs) for name in ("0", "1")}
