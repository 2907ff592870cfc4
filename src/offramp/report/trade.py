"""Accuracy against cost: policies and what they compete with, as SVG that needs no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from .axes import WIDE, Axes, padded, picture, ticks
from .looks import CROSS, DIAMOND, RULE, STAR, Looks, static_key
from .markup import Markup, element, join
from .points import Curve, Figures, Point, Spread
from .study import Study
from .sweeps import count_on_axes, on_axes
from .words import COST, mark, scale, with_range


def accuracy_cost(study: Study, looks: Looks, size: tuple[int, int]) -> Markup:
    """Accuracy against realised cost: every policy, every exit, and what they compete with."""
    axes = _own_axes(study, looks, size)
    parts = [_frame(axes, [study], looks, size), _full_line(axes, study.full)]
    parts += [_band(axes, 0, curve, looks) for curve in study.policies]
    parts += [_lines(axes, 0, curve, looks) for curve in _controls_first(study)]
    parts += [_bars(axes, 0, study, curve, looks) for curve in study.policies]
    parts += [*_exits(axes, study), *_rivals(axes, study), *_control_names(axes, study)]
    parts += on_axes(axes, study, looks)
    for curve in _controls_first(study):
        parts += _marks(axes, 0, study, curve, looks)
    parts += _rules(axes, 0, study, study.curves, looks)
    return _chart(parts, looks, size)


def swept_outside(study: Study, looks: Looks) -> tuple[int, int]:
    """How many alphas of all sweeps lie outside the axes of `accuracy_cost`, and of how many."""
    inside, known = count_on_axes(_own_axes(study, looks, WIDE), study)
    return known - inside, known


def policy_cost(
    studies: Sequence[Study], policy: str, looks: Looks, size: tuple[int, int]
) -> Markup:
    """Accuracy against realised cost of one policy, a curve for each of several studies."""
    drawn = [
        (number, study, curve)
        for number, study in enumerate(studies)
        for curve in study.curves
        if curve.policy == policy
    ]
    points = [point for _, _, curve in drawn for point in curve.all_points]
    axes = _axes([], points, looks, size, _macs_of(studies))
    parts = [_frame(axes, studies, looks, size)]
    parts += [_band(axes, number, curve, looks) for number, _, curve in drawn]
    parts += [_lines(axes, number, curve, looks) for number, _, curve in drawn]
    parts += [
        _bars(axes, number, study, curve, looks)
        for number, study, curve in drawn
        if not curve.control
    ]
    for number, study, curve in drawn:
        parts += _marks(axes, number, study, curve, looks)
    for number, study, curve in drawn:
        parts += _rules(axes, number, study, [curve], looks)
    return _chart(parts, looks, size)


# ------------------------------------------------------------------------ axes
def _own_axes(study: Study, looks: Looks, size: tuple[int, int]) -> Axes:
    alone = [(each.cost.mean, each.accuracy) for each in (*study.exits, *study.static)]
    points = [point for curve in study.curves for point in curve.all_points]
    return _axes([(1.0, study.full), *alone], points, looks, size, _macs_of([study]))


def _axes(
    alone: Sequence[tuple[float, Spread]],
    points: Sequence[Figures],
    looks: Looks,
    size: tuple[int, int],
    macs: float | None,
) -> Axes:
    """Axes that have room for marks by themselves, each a cost and an accuracy, and for curves."""
    places = [*alone, *((point.cost.mean, looks.value(point)) for point in points)]
    costs = [cost for cost, _ in places]
    for point in points:
        if point.rate_errors is not None:
            costs += point.cost.bar or ()
    x_range = padded(costs, 0.05)
    ends = [end for _, value in places for end in value.bar or (value.low, value.high)]
    low, high = padded(ends)
    top = 14 if macs is None else 46
    return Axes(*size, (max(x_range[0], 0), x_range[1]), (max(low, 0), min(high, 1)), top=top)


def _macs_of(studies: Sequence[Study]) -> float | None:
    """What a cost of 1 is in multiply-accumulates, where costs are counted in them."""
    full = {study.full_macs for study in studies if study.unit == "macs" and study.told_errors}
    return full.pop() if len(full) == 1 else None


def _frame(axes: Axes, studies: Sequence[Study], looks: Looks, size: tuple[int, int]) -> Markup:
    study, macs = studies[0], _macs_of(studies)
    long = f"mean cost, % of the full network's {COST[study.unit]}"
    x_label = long if size == WIDE else "mean cost, % of the full network"
    pixels = "pixel " if study.task == "map" and looks.measure == "accuracy" else ""
    frame = axes.frame(x_label, f"{pixels}{looks.measure}, %")
    return frame if macs is None else join(frame, _counted(axes, macs))


def _counted(axes: Axes, macs: float) -> Markup:
    """The axis of cost once more, at the head: in multiply-accumulates per input."""
    low, high = (macs * end for end in axes.x_range)
    size, prefix = scale(high)
    parts: list[str] = []
    for value in ticks(low / size, high / size):
        place = axes.x(value * size / macs)
        parts += [
            element("line", x1=place, x2=place, y1=axes.top, y2=axes.top - 5, class_="tick"),
            element("text", f"{value:,g}", x=place, y=axes.top - 10, text_anchor="middle"),
        ]
    label = f"mean MACs per input{f', {prefix}' if prefix else ''}"
    middle = (axes.left + axes.width - axes.right) / 2
    parts.append(element("text", label, x=middle, y=14, text_anchor="middle", class_="axis"))
    return element("g", *parts, class_="macs", aria_hidden="true")


# ------------------------------------------------------------------------ policies


def _chart(parts: Sequence[str], looks: Looks, size: tuple[int, int]) -> Markup:
    ring = element("circle", r=10, class_="ring", hidden=True, aria_hidden="true")
    named = f"{looks.measure[:1].upper()}{looks.measure[1:]}" if looks.measure != "mIoU" else "mIoU"
    label = f"{named} against cost. Arrow keys go from mark to mark, Enter selects one."
    return picture(*size, *parts, ring, label=label, class_="chart accuracy")


def _controls_first(study: Study) -> Iterator[Curve]:
    yield from (curve for curve in study.curves if curve.control)
    yield from study.policies


def _full_line(axes: Axes, full: Spread) -> Markup:
    place = axes.y(full.mean)
    return element(
        "line", x1=axes.left, x2=axes.width - axes.right, y1=place, y2=place, class_="full"
    )


def _band(axes: Axes, number: int, curve: Curve, looks: Looks) -> Markup:
    """From the lowest to the highest accuracy, where several seeds have the same budgets."""
    drawn = []
    for points in _alike(curve):
        if len(points) > 1 and len(points[0].seeds) > 1:
            ends = [(axes.x(p.cost.mean), looks.value(p)) for p in points]
            there = [f"{x},{axes.y(value.high)}" for x, value in ends]
            back = [f"{x},{axes.y(value.low)}" for x, value in reversed(ends)]
            drawn.append(element("polygon", points=" ".join(there + back), class_="band"))
    return element("g", *drawn, class_=looks.colour(number, curve))


def _lines(axes: Axes, number: int, curve: Curve, looks: Looks) -> Markup:
    drawn = [
        element(
            "polyline",
            points=" ".join(f"{axes.x(p.cost.mean)},{axes.y(looks.value(p).mean)}" for p in points),
            class_="line",
            stroke_dasharray=looks.dashes(number, curve),
        )
        for points in _alike(curve)
    ]
    return element("g", *drawn, class_=looks.colour(number, curve))


def _bars(axes: Axes, number: int, study: Study, curve: Curve, looks: Looks) -> Markup:
    """Error bars of a curve, where its results tell of errors; the rule has its own."""
    drawn = [_bar(axes, point, looks) for point in curve.points if point.rate_errors is not None]
    if not drawn:
        return Markup("")
    return element(
        "path",
        d="".join(drawn),
        class_=f"bars {looks.colour(number, curve)}",
        data_s=number,
        data_p=_place(study, curve),
    )


def _bar(axes: Axes, point: Figures, looks: Looks) -> str:
    """The outline of an upright and a lying error bar, each with its ends."""
    value = looks.value(point)
    x, y = axes.x(point.cost.mean), axes.y(value.mean)
    drawn = ""
    if value.bar:
        low, high = (axes.y(min(max(end, 0), 1)) for end in value.bar)
        drawn += f"M{x:g},{low:g}V{high:g}M{x - 3:g},{low:g}h6M{x - 3:g},{high:g}h6"
    if point.cost.bar:
        low, high = (axes.x(end) for end in point.cost.bar)
        drawn += f"M{low:g},{y:g}H{high:g}M{low:g},{y - 3:g}v6M{high:g},{y - 3:g}v6"
    return drawn


def _place(study: Study, curve: Curve) -> int:
    return next(index for index, other in enumerate(study.curves) if other is curve)


def _alike(curve: Curve) -> list[list[Point]]:
    """Points of the same seeds: only those are joined, as others differ by more than budget."""
    groups: dict[tuple[int, ...], list[Point]] = {}
    for point in curve.points:
        groups.setdefault(point.seeds, []).append(point)
    return [sorted(group, key=lambda point: point.cost.mean) for group in groups.values()]


def _marks(axes: Axes, number: int, study: Study, curve: Curve, looks: Looks) -> Iterator[Markup]:
    for b, point in enumerate(curve.points):
        shape = looks.shape(number, curve)
        yield _mark(axes, number, study, curve, looks, point=point, shape=shape, b=b)


def _rules(
    axes: Axes, number: int, study: Study, curves: Sequence[Curve], looks: Looks
) -> Iterator[Markup]:
    """Published rules with their error bars, above everything else."""
    for curve in curves:
        if rule := curve.rule:
            colour, b = looks.colour(number, curve), len(curve.points)
            yield element("path", d=_bar(axes, rule, looks), class_=f"bars rule {colour}")
            yield _mark(axes, number, study, curve, looks, point=rule, shape=RULE, b=b)


def _mark(
    axes: Axes,
    number: int,
    study: Study,
    curve: Curve,
    looks: Looks,
    *,
    point: Figures,
    shape: str,
    b: int,
) -> Markup:
    """What stands for one operating point, and selects it."""
    some = len(point.seeds) < len(study.seeds)
    said = mark(study, curve, point)
    rule = " rule" if point is curve.rule else ""
    return element(
        "g",
        element("path", d=shape, class_="shape hollow" if some else "shape"),
        class_=f"mark{rule} {looks.colour(number, curve)}",
        transform=_at(axes, point.cost.mean, looks.value(point).mean),
        data_s=number,
        data_p=_place(study, curve),
        data_b=b,
        tabindex=-1,
        role="button",
        aria_label=f"{study.name}: {said}" if looks.several else said,
    )


# ------------------------------------------------------------------------ what they compete with
def _exits(axes: Axes, study: Study) -> Iterator[Markup]:
    for k, alone in enumerate(study.exits):
        said = f"every input at exit {k}: accuracy {with_range(alone.accuracy)}, "
        yield _rival(
            axes,
            DIAMOND,
            (alone.cost.mean, alone.accuracy.mean),
            name=f"exit {k}" if axes.width > 600 else f"{k}",
            said=f"{said}cost {with_range(alone.cost)}",
            class_="exit",
        )


def _rivals(axes: Axes, study: Study) -> Iterator[Markup]:
    yield _rival(
        axes,
        STAR,
        (1.0, study.full.mean),
        name="full network" if axes.width > 600 else "",
        said=f"full network: accuracy {with_range(study.full)}, cost 100%",
        class_="star",
        side="above",
    )
    for index, static in enumerate(study.static):
        said = f"{static.name}: accuracy {with_range(static.accuracy)}, "
        yield _rival(
            axes,
            CROSS,
            (static.cost.mean, static.accuracy.mean),
            name=static_key(index),
            said=f"{said}cost {with_range(static.cost)}",
            class_="static",
            side="beside",  # a network cut off at an exit is close to that exit
        )


def _control_names(axes: Axes, study: Study) -> Iterator[Markup]:
    """What the grey curves are, written at their start."""
    for curve in study.curves:
        if curve.control:
            point = min(curve.points, key=lambda point: point.cost.mean)
            name = element("text", f"{curve.policy} (control)", x=10, y=-6, class_="name")
            place = _at(axes, point.cost.mean, point.accuracy.mean)
            yield element("g", name, class_="control", transform=place, aria_hidden="true")


def _rival(
    axes: Axes,
    shape: str,
    place: tuple[float, float],
    *,
    name: str,
    said: str,
    class_: str,
    side: Literal["above", "below", "beside"] = "below",
) -> Markup:
    """A mark that no budget moves, with its name; near an edge the name turns inwards."""
    x = axes.x(place[0])
    if side == "below" and axes.y(place[1]) > axes.height - axes.bottom - 26:
        side = "above"
    room = min(x - axes.left, axes.width - axes.right - x)
    anchor = "middle" if room > 4 * len(name) else "start" if x < axes.width / 2 else "end"
    shift = 0.0
    if side == "beside":
        anchor = "end" if axes.width - axes.right - x < 12 + 8 * len(name) else "start"
        shift = -11.0 if anchor == "end" else 11.0
    text = element(
        "text",
        name,
        x=shift,
        y={"above": -12, "below": 21, "beside": 4}[side],
        text_anchor=anchor,
        class_="name",
        aria_hidden="true",
    )
    return element(
        "g",
        element("path", d=shape, class_="shape"),
        text,
        class_=f"rival {class_}",
        transform=_at(axes, *place),
        tabindex=-1,
        role="img",
        aria_label=said,
    )


def _at(axes: Axes, cost: float, accuracy: float) -> str:
    return f"translate({axes.x(cost):g},{axes.y(accuracy):g})"
