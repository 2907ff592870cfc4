"""A sweep over alpha: what gates trained for many weights of cost against accuracy come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from . import tables
from .axes import Axes, padded, picture, share_tick, ticks
from .looks import CONTROL_SHAPE, Looks, letter, swatch
from .markup import Markup, element
from .study import Study
from .words import percent, plain, step_said

if TYPE_CHECKING:
    from .swept import Outcome, Step, Sweep

Measure = tuple[str, Callable[["Outcome"], float], Callable[[float], str]]
_MEASURES: tuple[Measure, ...] = (
    ("accuracy, %", lambda found: found.accuracy, share_tick),
    ("mean cost, %", lambda found: found.cost, share_tick),
    ("mean exit", lambda found: found.mean_exit, lambda value: f"{value:g}"),
)


def sweeps(studies: Sequence[Study], looks: Looks) -> Markup:
    """Accuracy, cost and mean exit over alpha, small multiples, and the table behind them."""
    parts = [
        element(
            "div",
            element("h3", f"{letter(number)}: {study.name}") if looks.several else "",
            *_about(study, looks),
            class_="of-study",
            data_study=number,
        )
        for number, study in enumerate(studies)
        if study.sweeps
    ]
    if not parts:
        return Markup("")
    note = (
        "Alpha weighs cost against accuracy while gates are trained: 0 is accuracy alone, 1 is "
        "cost alone. Everyone leaves at the first gate that says so; no budget takes part. Cost is "
        "relative to the full network, exits count from 0."
    )
    heading = element("h2", "Gates over alpha")
    return element("section", heading, element("p", note, class_="note"), *parts, id="sweep")


def on_axes(axes: Axes, study: Study, looks: Looks) -> Iterator[Markup]:
    """Accuracy against cost of every alpha, a line per seed; what lies outside is left out."""
    for seed, sweep in study.sweeps.items():
        if sweep.unit == study.unit:
            inside = _inside(axes, sweep)
            places = [(axes.x(found.cost), axes.y(found.accuracy)) for _, found in inside]
            yield element(
                "g", *_drawn(study, seed, inside, places, hollow=True), class_=looks.sweep
            )


def count_on_axes(axes: Axes, study: Study) -> tuple[int, int]:
    """How many alphas of all sweeps lie inside axes, and how many there are."""
    shown = [sweep for sweep in study.sweeps.values() if sweep.unit == study.unit]
    return sum(len(_inside(axes, each)) for each in shown), sum(len(e.points) for e in shown)


def _inside(axes: Axes, sweep: Sweep) -> list[tuple[Step, Outcome]]:
    """Of the test part, of the calibration part where not every alpha is scored on the other."""
    outcomes = _outcomes(sweep, all(step.test for step in sweep.points))
    (left, right), (low, high) = axes.x_range, axes.y_range
    return [
        pair
        for pair in outcomes
        if left <= pair[1].cost <= right and low <= pair[1].accuracy <= high
    ]


def _about(study: Study, looks: Looks) -> Iterator[Markup]:
    panels = [element("figure", _panel(study, looks, each)) for each in _MEASURES]
    drawn = element("div", *panels, class_="panels thirds")
    tested = any(step.test for sweep in study.sweeps.values() for step in sweep.points)
    items = [(CONTROL_SHAPE, looks.sweep, "test part")] if tested else []
    items.append((CONTROL_SHAPE, f"{looks.sweep} hollow", "calibration part"))
    legend = [
        element("li", swatch(shape, class_, None if "hollow" not in class_ else "4 3"), name)
        for shape, class_, name in items
    ]
    yield element("figure", drawn, element("ul", *legend, class_="legend"), _timed(study))
    behind = [_table(study, seed, sweep) for seed, sweep in study.sweeps.items()]
    yield tables.behind(*behind)


def _timed(study: Study) -> Markup:
    """How long the sweeps took, and how many lines there are."""
    alphas = [len(sweep.points) for sweep in study.sweeps.values()]
    seconds = [sweep.seconds for sweep in study.sweeps.values()]
    low, high = plain(min(seconds)), plain(max(seconds))
    took = f"{low} s" if low == high else f"{low} to {high} s"
    several = "; a line for each seed" if len(seconds) > 1 else ""
    each = " each" if len(seconds) > 1 else ""
    return element("figcaption", f"{max(alphas)} alphas in {took} of wall time{each}{several}.")


def _panel(study: Study, looks: Looks, measure: Measure) -> Markup:
    label, value, text = measure
    lines = [
        (seed, sweep, is_test)
        for is_test in (False, True)
        for seed, sweep in study.sweeps.items()
        if not is_test or any(step.test for step in sweep.points)
    ]
    ends = [value(found) for _, sweep, t in lines for _, found in _outcomes(sweep, t)]
    low, high = padded(ends, 0.08)
    alphas = [alpha for sweep in study.sweeps.values() for alpha in sweep.alphas]
    x_range = padded(alphas, 0.03)
    axes = Axes(320, 220, x_range, (max(low, 0), high), left=48, right=8, top=12, bottom=44)
    parts: list[str] = [_frame(axes, label, text)]
    for seed, sweep, is_test in lines:
        parts.append(_line(axes, study, seed, looks, measure, _outcomes(sweep, is_test), is_test))
    said = f"{label} over alpha; the table below has the figures."
    return picture(320, 220, *parts, label=said, class_="chart hinted swept")


def _outcomes(sweep: Sweep, is_test: bool) -> list[tuple[Step, Outcome]]:
    found = [(step, step.test if is_test else step.calibration) for step in sweep.points]
    return sorted(
        ((step, outcome) for step, outcome in found if outcome), key=lambda pair: pair[0].alpha
    )


def _frame(axes: Axes, label: str, text: Callable[[float], str]) -> Markup:
    foot, parts = axes.height - axes.bottom, axes.rows(most=5, text=text)
    for value in ticks(*axes.x_range, 5):
        place = axes.x(value)
        parts.append(element("text", f"{value:g}", x=place, y=foot + 17, text_anchor="middle"))
    return element("g", *parts, axes.labels("alpha", label), aria_hidden="true")


def _line(
    axes: Axes,
    study: Study,
    seed: int,
    looks: Looks,
    measure: Measure,
    outcomes: Sequence[tuple[Step, Outcome]],
    is_test: bool,
) -> Markup:
    places = [(axes.x(s.alpha), axes.y(measure[1](found))) for s, found in outcomes]
    drawn = _drawn(study, seed, outcomes, places, hollow=not is_test)
    return element("g", *drawn, class_=looks.sweep)


def _drawn(
    study: Study,
    seed: int,
    outcomes: Sequence[tuple[Step, Outcome]],
    places: Sequence[tuple[float, float]],
    *,
    hollow: bool,
) -> Iterator[Markup]:
    """A line through the alphas in their order, and a mark at each."""
    yield element(
        "polyline",
        points=" ".join(f"{x:g},{y:g}" for x, y in places),
        class_="line thin",
        stroke_dasharray="4 3" if hollow else None,
    )
    for (step, found), (x, y) in zip(outcomes, places, strict=True):
        yield element(
            "g",
            element("path", d=CONTROL_SHAPE, class_="shape hollow" if hollow else "shape"),
            class_="rival swept",
            transform=f"translate({x:g},{y:g})",
            tabindex=-1,
            role="img",
            aria_label=step_said(study, seed, step, found),
        )


def _table(study: Study, seed: int, sweep: Sweep) -> Markup:
    of = f"Seed {seed}: every" if len(study.seeds) > 1 else "Every"
    head = ["alpha", "part", "accuracy", "cost", "mean exit"]
    head += [f"exit {k}" for k in range(study.num_exits)]
    rows = [
        [
            f"{step.alpha:g}",
            part,
            percent(found.accuracy),
            percent(found.cost),
            f"{found.mean_exit:.2f}",
            *(percent(rate) for rate in found.rates),
        ]
        for step in sweep.points
        for part, found in (("calibration", step.calibration), ("test", step.test))
        if found
    ]
    return tables.table(f"{of} alpha, with the share of inputs that leave by each exit", head, rows)
