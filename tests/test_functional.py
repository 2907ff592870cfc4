"""Certainty, rates and thresholds against literal float64 formulas and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offramp.errors import BudgetError, ValidationError
from offramp.functional import (
    cascade,
    check_budget,
    class_counts,
    class_iou,
    count_hits,
    expected_cost,
    first_exit,
    log_certainty,
    log_margin,
    log_odds,
    nearest,
    one_threshold,
    rates_for_budget,
    reduce_positions,
    squash,
    upsample,
)

INF = float("inf")
MAX = torch.finfo(torch.float32).max
thorough = settings(max_examples=60, deadline=None, derandomize=True)


# ----------------------------------------------------------------------- certainty
def literal_probabilities(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(z - top) for z in row]
    return sorted((w / sum(weights) for w in weights), reverse=True)


def literal_odds(row: list[float]) -> float:
    p = literal_probabilities(row)
    return math.log(p[0] / sum(p[1:]))


def literal_margin(row: list[float]) -> float:
    p = literal_probabilities(row)
    return -math.log(2 * p[1] + sum(p[2:]))  # 1 - (p_1 - p_2), with 1 = the sum of all p


def literal_certainty(row: list[float]) -> float:
    p = literal_probabilities(row)
    rest = sum(p[1:])  # log p_1 = log(1 - rest), which is exact where p_1 rounds to 1
    entropy = -p[0] * math.log1p(-rest) - sum(q * math.log(q) for q in p[1:] if q > 0)
    return -math.log(entropy)


LITERAL = [
    (log_odds, literal_odds),
    (log_margin, literal_margin),
    (log_certainty, literal_certainty),
]


@pytest.mark.parametrize(("function", "literal"), LITERAL, ids=["odds", "margin", "certainty"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_certainty_equals_literal_formula(function, literal, scale: float, classes: int) -> None:
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(classes)) * scale
    wanted = torch.tensor([literal(row) for row in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(function(logits).double(), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("function", "literal"), LITERAL, ids=["odds", "margin", "certainty"])
def test_certainty_of_maps_is_that_of_each_position(function, literal) -> None:
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)) * 3
    got = function(logits)
    assert got.shape == (2, 3, 5)
    assert got[1, 2, 4].item() == pytest.approx(literal(logits[1, :, 2, 4].tolist()), rel=1e-5)


@pytest.mark.parametrize("function", [f for f, _ in LITERAL], ids=["odds", "margin", "certainty"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certainty_of_saturated_logits_stays_strictly_ordered(function, dtype) -> None:
    tops = torch.logspace(-1, 4, 300).to(dtype).unique()
    logits = torch.zeros(len(tops), 10, dtype=dtype)
    logits[:, 3] = tops
    assert (logits.softmax(1).amax(1) == 1).sum() > 40  # the probability itself does tie
    assert bool((function(logits).diff() > 0).all())


@pytest.mark.parametrize("function", [f for f, _ in LITERAL], ids=["odds", "margin", "certainty"])
def test_certainty_ignores_classes_ruled_out_by_minus_infinity(function) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    masked = torch.cat([logits, torch.full((20, 3), -INF)], 1)
    torch.testing.assert_close(function(masked), function(logits))
    assert bool((function(torch.tensor([[2.0, -INF, -INF]])) == INF).all())


@pytest.mark.parametrize("function", [f for f, _ in LITERAL], ids=["odds", "margin", "certainty"])
def test_certainty_of_nan_is_nan_for_that_row_alone(function) -> None:
    logits = torch.randn(3, 4)
    logits[1, 2] = float("nan")
    assert function(logits).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 2, 2)])
def test_certainty_of_fewer_than_two_classes_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match=r"C >= 2, got \(3"):
        log_odds(torch.zeros(shape))


def test_squash_keeps_order_and_stays_below_one() -> None:
    scores = torch.cat([-torch.logspace(4, -2, 200), torch.logspace(-2, 4, 200)])
    squashed = squash(scores.bfloat16().float().unique())
    assert bool((squashed.diff() > 0).all())
    ends = squash(torch.tensor([-INF, -MAX, -1e4, 1e4, MAX, INF]))
    assert bool((ends >= 0).all()) and bool((ends <= 0.999).all())
    assert squash(torch.tensor(float("nan"))).isnan()
    literal = [0.4995 * (1 + x / (1 + abs(x))) for x in (-3.0, 0.0, 7.0)]
    torch.testing.assert_close(squash(torch.tensor([-3.0, 0.0, 7.0])), torch.tensor(literal))


# ----------------------------------------------------------------------- positions
def literal_worst_patch(grid: list[list[float]]) -> float:
    height, width = len(grid), len(grid[0])
    rows, columns = min(8, height), min(8, width)
    means = []
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            patch = [v for line in grid[top : top + rows] for v in line[left : left + columns]]
            means.append(sum(patch) / len(patch))
    return min(means)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 20), (16, 7)])
def test_reduce_positions_equals_plain_loops(size: tuple[int, int]) -> None:
    values = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    flat = [sorted(row) for row in values.flatten(1).tolist()]
    mean = torch.tensor([sum(row) / len(row) for row in flat])
    tenth = torch.tensor([row[max(1, len(row) // 10) - 1] for row in flat])
    worst = torch.tensor([literal_worst_patch(grid) for grid in values.tolist()])
    torch.testing.assert_close(reduce_positions(values, "mean"), mean)
    torch.testing.assert_close(reduce_positions(values, "quantile"), tenth)
    torch.testing.assert_close(reduce_positions(values, "worst_patch"), worst)


@pytest.mark.parametrize("reduce", ["mean", "quantile", "worst_patch"])
def test_reduce_positions_with_nan_anywhere_is_nan(reduce) -> None:
    values = torch.randn(3, 9, 20)
    values[1, 8, 19] = float("nan")
    assert reduce_positions(values, reduce).isnan().tolist() == [False, True, False]


def test_reduce_positions_of_a_line_takes_patches_along_it() -> None:
    values = torch.arange(40.0).reshape(2, 20)
    assert reduce_positions(values, "worst_patch").tolist() == [3.5, 23.5]


def test_reduce_positions_of_one_score_per_input_changes_nothing() -> None:
    values = torch.randn(5)
    assert torch.equal(reduce_positions(values, "worst_patch"), values)


def test_reduce_positions_with_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ValidationError, match="'mean', 'quantile' or 'worst_patch', got 'max'"):
        reduce_positions(torch.zeros(1, 2, 2), "max")  # type: ignore[arg-type]


# ----------------------------------------------------------------------- maps
@pytest.mark.parametrize("size", [(3, 4), (6, 8), (7, 5), (1, 1), (11, 174)])
def test_nearest_takes_the_position_that_whole_numbers_name(size: tuple[int, int]) -> None:
    values = torch.randint(-100, 2**40, (2, 6, 198))
    came = nearest(values, size)
    assert came.shape == (2, *size) and came.dtype == torch.int64
    for n in range(2):
        for y in range(size[0]):
            for x in range(size[1]):
                assert came[n, y, x] == values[n, y * 6 // size[0], x * 198 // size[1]]


def test_nearest_leaves_labels_and_equal_sizes_as_they_are() -> None:
    labels, line = torch.arange(4), torch.arange(6).view(2, 3)
    assert torch.equal(nearest(labels, ()), labels)
    assert torch.equal(nearest(line, (3,)), line)
    assert nearest(line, (6,)).tolist() == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]


def test_upsample_is_bilinear_with_corners_not_aligned() -> None:
    logits = torch.tensor([[[[0.0, 4.0]]]])
    assert upsample(logits, (1, 4)).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    assert upsample(logits, (1, 2)) is logits
    labels = torch.randn(3, 5)
    assert upsample(labels, ()) is labels


def test_class_counts_equal_plain_loops() -> None:
    answers, targets = torch.randint(-1, 5, (4, 30)), torch.randint(-2, 4, (4, 30))
    counts = class_counts(answers, targets, 5)
    assert counts.shape == (4, 3, 5)
    for n in range(4):
        pairs = [(a, t) for a, t in zip(answers[n].tolist(), targets[n].tolist(), strict=True)]
        pairs = [(a, t) for a, t in pairs if t >= 0]
        for c in range(5):
            wanted = [
                sum(a == t == c for a, t in pairs),
                sum(a == c for a, _ in pairs),
                sum(t == c for _, t in pairs),
            ]
            assert counts[n, :, c].tolist() == wanted
    parts = class_counts(answers[:, :7], targets[:, :7], 5)
    assert torch.equal(parts + class_counts(answers[:, 7:], targets[:, 7:], 5), counts)
    iou = class_iou(counts.sum(0))
    right, answered, wanted = counts.sum(0)
    assert iou[2] == float(right[2]) / float(answered[2] + wanted[2] - right[2])
    assert iou[4] == 0  # answered, never wanted


# ----------------------------------------------------------------------- maps
@pytest.mark.parametrize("size", [(), (5,), (4, 6)])
def test_hits_equal_plain_loops(size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 3, *size, generator=generator).round()  # with ties
    logits[1, 2] = float("nan")
    targets = torch.randint(-2, 3, (7, *size), generator=generator)
    hits, counts = count_hits(list(logits), targets)
    for n, row in enumerate(targets.reshape(7, -1).tolist()):
        assert counts[n] == sum(label >= 0 for label in row)
        for k in range(2):
            columns = logits[k, n].reshape(3, -1).T.tolist()
            pairs = zip(columns, row, strict=True)
            right = [max(z) == z[y] and z.index(max(z)) == y for z, y in pairs if y >= 0]
            assert hits[n, k] == sum(right)


# ----------------------------------------------------------------------- rates
@st.composite
def cost_tables(draw: st.DrawFn, low: int = 1, high: int = 6) -> Tensor:
    """[K] float64, non-decreasing, equal ones included."""
    steps = draw(st.lists(st.sampled_from([0.0, 0.05, 0.2, 0.5]), min_size=low, max_size=high))
    return torch.tensor(steps, dtype=torch.float64).cumsum(0) + 0.1


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("prior", [None, [0.1, 0.6, 0.1, 0.2]])
def test_rates_are_the_geometric_family_of_a_fine_grid(budget: float, prior) -> None:
    costs = torch.tensor([0.2, 0.5, 0.6, 1.02], dtype=torch.float64)
    q = torch.logspace(-4, 4, 200_001, dtype=torch.float64)[:, None]
    family = q ** torch.arange(4) * torch.tensor(prior or [1.0] * 4, dtype=torch.float64)
    family = family / family.sum(1, keepdim=True)
    within = (family * costs).sum(1) <= budget
    literal = family[within.nonzero().max()]
    rates = rates_for_budget(costs, budget, None if prior is None else torch.tensor(prior))
    torch.testing.assert_close(rates, literal, atol=2e-4, rtol=0)


@given(cost_tables(), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=6, max_size=6))
@thorough
def test_rates_spend_the_budget_from_below(costs: Tensor, share: float, prior: list[float]) -> None:
    low, high = float(costs[0]), float(costs[-1])
    budget = low + share * (high - low)
    for rates in (
        rates_for_budget(costs, budget),
        rates_for_budget(costs, budget, torch.tensor(prior[: len(costs)])),
    ):
        assert rates.sum().item() == pytest.approx(1)
        assert bool((rates >= 0).all())
        spent = float(expected_cost(rates, costs))
        assert budget - 1e-6 <= spent <= budget + 1e-9


def test_rates_at_the_ends_are_the_first_and_the_last_exit_alone() -> None:
    costs = torch.tensor([0.3, 0.7, 1.04])
    assert rates_for_budget(costs, float(costs[0]))[0].item() == pytest.approx(1)
    assert rates_for_budget(costs, float(costs[-1]))[-1].item() == pytest.approx(1)


@pytest.mark.parametrize("budget", [0.1, 1.2, -1.0, INF, float("nan")])
def test_budget_out_of_reach_states_the_reachable_range(budget: float) -> None:
    costs = torch.tensor([0.3, 0.7, 1.04])
    for function in (rates_for_budget, check_budget):
        with pytest.raises(BudgetError, match=r"reachable range is \[0\.3, 1\.04\]"):
            function(costs, budget)
    with pytest.raises(BudgetError, match=r"reachable range is \[0\.3, 1\.04\]"):
        one_threshold(torch.rand(5, 3), costs, budget)


# ----------------------------------------------------------------------- thresholds
@st.composite
def score_tables(draw: st.DrawFn, exits: int) -> Tensor:
    """[N, K] float32: spread, tied, constant, huge, infinite and missing scores."""
    num = draw(st.integers(1, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scores = torch.randn(num, exits, generator=generator)
    kind = draw(st.sampled_from(["spread", "tied", "constant", "huge", "special", "close"]))
    if kind == "tied":
        return scores.round()
    if kind == "constant":
        return torch.full_like(scores, draw(st.sampled_from([-3.0, 0.0, 1e4, INF, -INF, -MAX])))
    if kind == "huge":
        return scores * 1e38
    if kind == "special":
        odd = torch.tensor([INF, -INF, float("nan"), MAX, -MAX, 0.0])
        return odd[torch.randint(6, scores.shape, generator=generator)]
    return 1 + scores * 1e-7 if kind == "close" else scores


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Scores, costs, and a budget within reach."""
    costs = draw(cost_tables())
    low, high = float(costs[0]), float(costs[-1])
    share = draw(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)))
    return draw(score_tables(len(costs))), costs, low + share * (high - low)


def plain(scores: Tensor) -> list[list[float]]:
    """The scores as numbers, as thresholds see them: NaN and infinities are the ends of float32."""
    return scores.nan_to_num(nan=-MAX, posinf=MAX, neginf=-MAX).tolist()


def literal_counts(scores: Tensor, rates: Tensor) -> list[int]:
    """How many leave by each exit: walk down the scores until the cumulative count is reached."""
    rows, num, total = plain(scores), len(scores), 0.0
    left, counts = set(range(num)), []
    for k in range(scores.shape[1]):
        total += float(rates[k])
        goal = min(num, math.ceil(num * total - 1e-9))
        reached = None
        for n in sorted(left, key=lambda n: -rows[n][k]):
            if num - len(left) >= goal and rows[n][k] != reached:
                break
            left.remove(n)
            reached = rows[n][k]  # those who tie with the last one leave with it
        counts.append(num - len(left))
    return counts


@given(problems())
@thorough
def test_cascade_equals_a_walk_down_the_scores(problem: tuple[Tensor, Tensor, float]) -> None:
    scores, costs, budget = problem
    rates = rates_for_budget(costs, budget)
    thresholds = cascade(scores, rates)
    seen = scores.nan_to_num(nan=-MAX, posinf=MAX, neginf=-MAX)
    exits = first_exit(seen, thresholds)
    counts = [int((exits <= k).sum()) for k in range(len(costs))]
    assert counts == literal_counts(scores, rates)
    assert float(costs[exits].mean()) <= budget + 1e-8


@given(problems())
@thorough
def test_thresholds_lie_midway_and_never_equal_a_score(
    problem: tuple[Tensor, Tensor, float],
) -> None:
    scores, costs, budget = problem
    rows = torch.tensor(plain(scores))
    for thresholds in (
        cascade(scores, rates_for_budget(costs, budget)),
        one_threshold(scores, costs, budget).repeat(len(costs)),
    ):
        for k in range(len(costs) - 1):
            if bool((rows[:, k] == thresholds[k]).any()):
                # only where float32 has no number between this score and the one below
                below = thresholds[k].nextafter(torch.tensor(-INF))
                assert bool((rows[:, :-1] == below).any())


def test_cascade_threshold_is_the_middle_of_its_neighbours() -> None:
    scores = torch.tensor([[4.0, 0.0], [1.0, 0.0], [2.0, 0.0], [8.0, 0.0]])
    assert cascade(scores, torch.tensor([0.5, 0.5])).tolist() == [3.0, -INF]


@given(problems())
@thorough
def test_first_exit_equals_a_plain_loop(problem: tuple[Tensor, Tensor, float]) -> None:
    scores, costs, budget = problem
    thresholds = cascade(scores, rates_for_budget(costs, budget))
    literal = []
    for row in scores.tolist():
        ready = [k for k, score in enumerate(row) if score >= float(thresholds[k])]
        literal.append(ready[0] if ready else len(row) - 1)
    assert first_exit(scores, thresholds).tolist() == literal


def test_first_exit_sends_nan_to_the_last_exit() -> None:
    scores = torch.full((3, 4), float("nan"))
    scores[1, 2] = 5.0
    assert first_exit(scores, torch.tensor([0.0, 0.0, 0.0, -INF])).tolist() == [3, 2, 3]
    assert first_exit(scores, torch.full((4,), -INF)).tolist() == [3, 2, 3]


@given(problems())
@thorough
def test_one_threshold_spends_as_much_as_any_threshold_may(
    problem: tuple[Tensor, Tensor, float],
) -> None:
    scores, costs, budget = problem
    rows = plain(scores)

    def spent(threshold: float) -> float:
        total = 0.0
        for row in rows:
            ready = [k for k, score in enumerate(row[:-1]) if score >= threshold]
            total += float(costs[ready[0] if ready else -1])
        return total / len(rows)

    levels = sorted({score for row in rows for score in row[:-1]})
    levels = levels[:: max(1, len(levels) // 40)]  # a sample of the places: the loop is slow
    got = spent(float(one_threshold(scores, costs, budget)))
    assert got <= budget + 1e-8
    for threshold in [-INF, *levels, INF]:
        cost = spent(threshold)
        assert cost <= got + 1e-8 or cost > budget + 1e-10
