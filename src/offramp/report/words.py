"""Numbers and sentences of the report, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .compare import Comparison, Score
from .markup import clean
from .points import Curve, Figures, Point, Spread
from .study import Study, Timing

if TYPE_CHECKING:
    from .swept import Outcome, Step

COST = {
    "macs": "multiply-accumulates",
    "params": "parameters",
    "latency_ms": "measured time of the segments",
}


def percent(share: float, digits: int = 1) -> str:
    """Write a share as a percentage, `0.5` as `50.0%`."""
    return f"{100 * share:.{digits}f}%".replace("-", "\N{MINUS SIGN}")


def short_percent(share: float) -> str:
    """Write a share as a percentage without digits that say nothing, `0.5` as `50%`."""
    return f"{100 * share:.4g}%".replace("-", "\N{MINUS SIGN}")


def count(number: float) -> str:
    """Write a count with separators, a large one with a prefix: `2,000`, `12.6 M`."""
    size, prefix = scale(number)
    return f"{number / size:.3g} {prefix}" if prefix else f"{number:,.0f}"


def scale(number: float) -> tuple[float, str]:
    """The power of a thousand that a large number is written in, and its prefix."""
    sizes = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
    return next(((size, prefix) for size, prefix in sizes if number >= size), (1.0, ""))


def runs(number: int) -> str:
    """Write how many runs a figure is of."""
    return "1 seed" if number == 1 else f"{number} seeds"


def range_of(spread: Spread, digits: int = 1) -> str:
    """Say from where to where the runs reach: `90.9% to 91.5% over 3 seeds`."""
    if spread.num == 1:
        return f"{error(spread.stderr, digits)}, 1 seed" if spread.stderr else "1 seed"
    low, high = (percent(value, digits) for value in (spread.low, spread.high))
    return f"{low} to {high} over {spread.num} seeds"


def with_range(spread: Spread, digits: int = 1) -> str:
    """Write a mean share with its range, where the runs differ, or its standard error."""
    mean = percent(spread.mean, digits)
    if spread.stderr is not None:
        return f"{mean} {error(spread.stderr, digits)}"
    low, high = (f"{100 * value:.{digits}f}" for value in (spread.low, spread.high))
    if low == high:
        return mean
    return f"{mean} ({low} to {high})".replace("-", "\N{MINUS SIGN}")


def error(stderr: float, digits: int = 1) -> str:
    """Write the standard error of a share, in points."""
    return f"\N{PLUS-MINUS SIGN} {100 * stderr:.{digits}f}"


def shares(figures: Figures) -> list[str]:
    """Write the share of inputs that leave by each exit, with its error where that is known."""
    errors = figures.rate_errors or [None] * len(figures.rates)
    return [
        percent(rate) if stderr is None else f"{percent(rate)} {error(stderr)}"
        for rate, stderr in zip(figures.rates, errors, strict=True)
    ]


def errors_meant(studies: Sequence[Study]) -> str:
    """Say what error bars and the figures behind a plus-minus sign are; empty without any."""
    if not any(study.told_errors for study in studies):
        return ""
    seeds = {len(study.seeds) > 1 for study in studies}
    one = "one standard error to either side, test inputs taken as independent draws"
    several = "from the lowest to the highest seed"
    if len(seeds) > 1:
        return f"Error bars reach {several}; of a single run, {one}."
    return f"Error bars reach {several if seeds == {True} else one}."


def operating_point(figures: Figures) -> str:
    """Name the operating point: its budget, or that it is the published rule."""
    if isinstance(figures, Point):
        return f"budget {short_percent(figures.budget)}"
    return "published rule"


def drop(value: float) -> str:
    """Say how an accuracy compares with the full network's, from what it loses against it."""
    lost = round(100 * abs(value), 1)
    if not lost:
        return "the same accuracy"
    return f"{lost:.1f} percentage points {'less' if value > 0 else 'more'}"


def points(gain: float) -> str:
    """Write a difference of shares in percentage points, with its sign."""
    rounded = round(100 * gain, 1)
    text = f"{rounded:+.1f}" if rounded else "0.0"  # never "-0.0"
    return f"{text} points".replace("-", "\N{MINUS SIGN}")


def measured(compared: Comparison) -> str:
    """What studies are compared by, at the start of a sentence."""
    return "mIoU" if compared.measure == "mIoU" else compared.measure.capitalize()


def gained(score: Score) -> str:
    """Say what an exit gains: `+1.20 points (+0.40 to +2.00), 3 of 3 better`."""
    if score.gain is None:
        return "no seed in common"
    interval = ""
    if score.interval:
        interval = f" ({' to '.join(signed(end) for end in score.interval)})"
    seeds = f", {score.better} of {len(score.gains)} better"
    return f"{signed(score.gain)} points{interval}{seeds if len(score.gains) > 1 else ''}"


def signed(gain: float) -> str:
    """Write a difference of shares in hundredths of a point, with its sign."""
    rounded = round(100 * gain, 2)
    text = f"{rounded:+.2f}" if rounded else "0.00"
    return text.replace("-", "\N{MINUS SIGN}")


def plain(value: float) -> str:
    """Write a figure with three digits that count, and never with an exponent."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{max(digits, 0)}f}"


def over(point: Figures) -> str:
    """Say by how much the cost is over the budget; empty where it is not, or there is none."""
    excess = point.cost.mean - point.budget if isinstance(point, Point) else 0.0
    if excess <= 1e-9:
        return ""
    least = "less than 0.1" if excess < 0.0005 else f"{100 * excess:.1f}"
    return f"over the budget by {least} points"


def seeds_of(study: Study, point: Figures) -> str:
    """Say from which seeds a point is: all of them, or which where some lack the budget."""
    if len(point.seeds) == len(study.seeds):
        return runs(len(point.seeds))
    named = ", ".join(str(seed) for seed in point.seeds)
    return f"{len(point.seeds)} of {len(study.seeds)} seeds: {named}"


def middle(curve: Curve) -> int:
    """Number of the point at the middle budget."""
    return len(curve.points) // 2


def num_test(study: Study) -> str:
    """Say how many inputs the test part has."""
    low, high = min(study.num_test), max(study.num_test)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def headline(study: Study) -> list[str]:
    """Sentences on a study at the middle budget of its first policy: what came out, in words."""
    if not study.policies:
        return [_without_policy(study)]
    curve = study.policies[0]
    point = curve.points[middle(curve)]
    return [*_at_budget(study, curve, point), *_on_the_clock(study, curve, point)]


def readout(study: Study, curve: Curve, point: Figures) -> dict[str, str]:
    """Texts that stand beside the slider."""
    return {
        "study": clean(study.name),
        "policy": clean(curve.policy) + (" (control)" if curve.control else ""),
        "where": "at a budget of" if isinstance(point, Point) else "at its",
        "budget": operating_point(point).removeprefix("budget "),
        "point": operating_point(point),
        "seeds": seeds_of(study, point),
        "cost": percent(point.cost.mean),
        "cost-range": "; ".join(part for part in (over(point), range_of(point.cost)) if part),
        "accuracy": percent(point.accuracy.mean),
        "accuracy-range": range_of(point.accuracy),
        "drop": points(-point.drop.mean),
        "drop-range": f"full network: {percent(study.full.mean)}",
        "left": percent(point.left.mean, 0),
        "left-range": range_of(point.left, 0),
    }


def class_name(study: Study, number: int) -> str:
    """Name of a class, or its number where it has none."""
    names = study.class_names
    if number < 0:  # a target that does not count
        return "no label"
    return names[number] if number < len(names) else f"class {number}"


def mark(study: Study, curve: Curve, point: Figures) -> str:
    """Say what a mark of a curve stands for."""
    control = " (control)" if curve.control else ""
    beyond = f", {over(point)}" if over(point) else ""
    miou = f"mIoU {with_range(point.miou)}, " if point.miou else ""
    return (
        f"{curve.policy}{control}, {operating_point(point)}: "
        f"{miou}accuracy {with_range(point.accuracy)}, cost {with_range(point.cost)}{beyond}, "
        f"{percent(point.left.mean, 0)} left early; {seeds_of(study, point)}"
    )


def step_said(study: Study, seed: int, step: Step, outcome: Outcome) -> str:
    """Say what a mark of a sweep stands for."""
    of = f", seed {seed}" if len(study.seeds) > 1 else ""
    part = "test" if outcome is step.test else "calibration"
    return (
        f"alpha {step.alpha:g}{of}: accuracy {percent(outcome.accuracy)}, cost "
        f"{percent(outcome.cost)}, mean exit {outcome.mean_exit:.2f}; {part} part"
    )


def _right(study: Study) -> str:
    return "pixel accuracy" if study.task == "map" else "accuracy"


def _without_policy(study: Study) -> str:
    last = study.exits[-1]
    exits = "one exit" if study.num_exits == 1 else f"{study.num_exits} exits and no exit policy"
    return (
        f"With {exits}, this network reaches {percent(last.accuracy.mean)} {_right(study)} on "
        f"{num_test(study)} test inputs for {percent(last.cost.mean)} of the full network's "
        f"{COST[study.unit]}; the full network reaches {percent(study.full.mean)}."
    )


def _at_budget(study: Study, curve: Curve, point: Point) -> list[str]:
    alike = drop(point.drop.mean) == "the same accuracy"
    beyond = f" ({over(point)})" if over(point) else ""
    said = [
        f"Asked to spend {short_percent(point.budget)} of the full network's {COST[study.unit]}, "
        f"the policy {curve.policy} spends {percent(point.cost.mean)}{beyond} and reaches "
        f"{percent(point.accuracy.mean)} {_right(study)} on {num_test(study)} test inputs.",
        f"The full network reaches {percent(study.full.mean)}"
        f"{'' if alike else f', so this is {drop(point.drop.mean)}'}.",
        f"{percent(point.left.mean, 0)} of the inputs leave before the last exit.",
    ]
    if len(point.seeds) > 1:
        said.append(f"These are means over {runs(len(point.seeds))}.")
    return said


def _on_the_clock(study: Study, curve: Curve, point: Point) -> list[str]:
    """What was measured, or that nothing was: a smaller cost is no promise of a shorter time."""
    if not study.timings:
        if study.unit == "latency_ms":
            return ["The times are those of the segments: no whole runs were measured."]
        return [f"No times were measured; fewer {COST[study.unit]} alone promise no shorter time."]
    here = [
        timing
        for timing in study.timings
        if timing.policy == curve.policy and round(timing.budget, 6) == point.key
    ]
    if not here:
        return [
            "Times were measured at other budgets: see \N{LEFT DOUBLE QUOTATION MARK}Measured "
            "times\N{RIGHT DOUBLE QUOTATION MARK} below."
        ]
    return [_timed(sorted(here, key=lambda timing: timing.batch_size))]


def _timed(timings: Sequence[Timing]) -> str:
    said = [
        f"{plain(timing.ms.mean)} ms per input against {plain(timing.full_ms.mean)} ms for the "
        f"full network at batch size {timing.batch_size}, {_times(timing.speed_up)}"
        for timing in timings
    ]
    return f"Measured on the clock: {'; '.join(said)}."


def _times(speed_up: Spread) -> str:
    """Each seed against its own full network: the mean is not the ratio of the mean times."""
    over_seeds = ""
    if speed_up.num > 1:
        over_seeds = f" ({speed_up.low:.2f} to {speed_up.high:.2f} over {speed_up.num} seeds)"
    if speed_up.mean < 1 and not over_seeds:
        return f"so {1 / speed_up.mean:.2f} times as long"
    slower = ", so it is slower" if speed_up.mean < 1 else ""
    return f"a measured speed-up of {speed_up.mean:.2f}{over_seeds}{slower}"
