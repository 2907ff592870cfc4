"""The pictures, as SVG that stands without a script: accuracy against cost, exits, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from .axes import Axes, padded, picture
from .looks import CROSS, DIAMOND, STAR, Looks, exit_colour, ink_on, static_key
from .markup import Markup, element
from .study import Curve, Point, Slice, Spread, Study
from .words import COST, mark, percent, short_percent, with_range

WIDE, NARROW = (960, 500), (380, 380)  # for a desktop, and for a phone


def accuracy_cost(study: Study, looks: Looks, size: tuple[int, int]) -> Markup:
    """Accuracy against realised cost: every policy, every exit, and what they compete with."""
    shown = [*study.exits, *study.static]
    alone = [(item.cost.mean, item.accuracy) for item in shown]
    points = [point for curve in study.curves for point in curve.points]
    axes = _axes([(1.0, study.full), *alone], points, looks, size)
    parts = [_frame(axes, study, looks, size), _full_line(axes, study.full)]
    parts += [_band(axes, 0, curve, looks) for curve in study.policies]
    parts += [_lines(axes, 0, curve, looks) for curve in _controls_first(study)]
    parts += [*_exits(axes, study), *_rivals(axes, study), *_control_names(axes, study)]
    for curve in _controls_first(study):
        parts += _marks(axes, 0, study, curve, looks)
    return _chart(parts, looks, size)


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
    points = [point for _, _, curve in drawn for point in curve.points]
    axes = _axes([], points, looks, size)
    parts = [_frame(axes, studies[0], looks, size)]
    parts += [_band(axes, number, curve, looks) for number, _, curve in drawn]
    parts += [_lines(axes, number, curve, looks) for number, _, curve in drawn]
    for number, study, curve in drawn:
        parts += _marks(axes, number, study, curve, looks)
    return _chart(parts, looks, size)


def exit_rates(study: Study, curve: Curve, size: tuple[int, int]) -> Markup:
    """Share of inputs that leave by each exit, a column per budget."""
    width, height = size[0], round(size[1] * 0.72)
    axes = Axes(width, height, (0, 1), (0, 1), top=18)
    step = (width - axes.left - axes.right) / len(curve.points)
    letters = max(len(short_percent(point.budget)) for point in curve.points)
    every = math.ceil((8 * letters + 12) / step)  # budgets that get a label
    parts: list[str] = [element("g", *_share_grid(axes), aria_hidden="true")]
    for number, point in enumerate(curve.points):
        left = axes.left + step * (number + 0.12)
        label = short_percent(point.budget) if number % every == 0 else ""
        parts.append(_column(axes, point, number, left, step * 0.76, label))
    label = f"Exit rates of {curve.policy} by budget; the table below has the figures."
    parts.append(axes.labels("budget", "inputs, %"))
    return picture(width, height, *parts, label=label, class_="chart rates")


def reliability(k: int, study: Study, bins: Sequence[Slice]) -> Markup:
    """Accuracy over confidence at one exit, with the number of inputs in each bin."""
    axes = Axes(220, 210, (0, 1), (0, 1), left=36, right=10, top=8, bottom=66)
    most = max((b.num for b in bins), default=0) or 1
    foot, width = axes.y(0), (axes.x(1) - axes.x(0)) / len(bins)
    parts: list[str] = [element("g", *_unit_grid(axes), aria_hidden="true")]
    for number, part in enumerate(bins):
        if part.accuracy is None:
            continue
        place = {"x": axes.x(number / len(bins)) + 0.5, "width": width - 1}
        top, tall = axes.y(part.accuracy), 28 * part.num / most
        parts.append(element("rect", y=top, height=foot - top, class_="right", **place))
        parts.append(element("rect", y=foot + 46 - tall, height=tall, class_="count", **place))
    parts.append(
        element("line", x1=axes.x(0), y1=foot, x2=axes.x(1), y2=axes.y(1), class_="diagonal")
    )
    parts.append(element("text", "confidence, %", x=125, y=206, text_anchor="middle"))
    parts.append(element("text", "n", x=axes.left - 5, y=foot + 44, text_anchor="end"))
    total = sum(b.num for b in bins)
    label = f"Reliability of exit {k} over {total:,} answers; the table below has the figures."
    return picture(220, 210, *parts, label=label, class_="reliability")


def rate_bar(rates: Sequence[float]) -> Markup:
    """One bar of all exits, which the script resizes."""
    parts, start = [], 0.0
    for k, rate in enumerate(rates):
        fill = exit_colour(k, len(rates))
        parts.append(element("rect", x=1000 * start, width=1000 * rate, y=0, height=10, fill=fill))
        start += rate
    said = ", ".join(f"exit {k} {percent(rate)}" for k, rate in enumerate(rates))
    return element(
        "svg",
        *parts,
        viewBox="0 0 1000 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Exit rates: {said}",
        class_="bar",
        data_bar=True,
    )


# ------------------------------------------------------------------------ accuracy against cost
def _axes(
    alone: Sequence[tuple[float, Spread]],
    points: Sequence[Point],
    looks: Looks,
    size: tuple[int, int],
) -> Axes:
    """Axes that have room for marks by themselves, each a cost and an accuracy, and for curves."""
    places = [*alone, *((point.cost.mean, looks.value(point)) for point in points)]
    x_range = padded([cost for cost, _ in places], 0.05)
    low, high = padded([end for _, value in places for end in (value.low, value.high)])
    return Axes(*size, (max(x_range[0], 0), x_range[1]), (max(low, 0), min(high, 1)))


def _frame(axes: Axes, study: Study, looks: Looks, size: tuple[int, int]) -> Markup:
    long = f"mean cost, % of the full network's {COST[study.unit]}"
    x_label = long if size == WIDE else "mean cost, % of the full network"
    pixels = "pixel " if study.task == "map" and looks.measure == "accuracy" else ""
    return axes.frame(x_label, f"{pixels}{looks.measure}, %")


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


def _alike(curve: Curve) -> list[list[Point]]:
    """Points of the same seeds: only those are joined, as others differ by more than budget."""
    groups: dict[tuple[int, ...], list[Point]] = {}
    for point in curve.points:
        groups.setdefault(point.seeds, []).append(point)
    return [sorted(group, key=lambda point: point.cost.mean) for group in groups.values()]


def _marks(axes: Axes, number: int, study: Study, curve: Curve, looks: Looks) -> Iterator[Markup]:
    p = next(index for index, other in enumerate(study.curves) if other is curve)
    for b, point in enumerate(curve.points):
        some = len(point.seeds) < len(study.seeds)
        said = mark(study, curve, point)
        yield element(
            "g",
            element(
                "path", d=looks.shape(number, curve), class_="shape hollow" if some else "shape"
            ),
            class_=f"mark {looks.colour(number, curve)}",
            transform=_at(axes, point.cost.mean, looks.value(point).mean),
            data_s=number,
            data_p=p,
            data_b=b,
            tabindex=-1,
            role="button",
            aria_label=f"{study.name}: {said}" if looks.several else said,
        )


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


# ------------------------------------------------------------------------ exits and calibration
def _column(axes: Axes, point: Point, number: int, left: float, width: float, label: str) -> Markup:
    parts: list[str] = []
    start = 0.0
    for k, rate in enumerate(point.rates):
        fill = exit_colour(k, len(point.rates))
        top, foot = axes.y(min(start + rate, 1)), axes.y(start)
        parts.append(
            element("rect", x=left, y=top, width=width, height=foot - top, fill=fill, class_="part")
        )
        if foot - top > 15 and width > 28:
            parts.append(
                element(
                    "text",
                    f"{100 * rate:.0f}",
                    x=left + width / 2,
                    y=(top + foot) / 2 + 4,
                    text_anchor="middle",
                    fill=ink_on(fill),
                    class_="inside",
                )
            )
        start += rate
    low, middle = axes.y(0), left + width / 2
    parts.append(element("text", label, x=middle, y=low + 17, text_anchor="middle"))
    parts.append(
        element(
            "rect",
            x=left - 2,
            y=axes.y(1) - 2,
            width=width + 4,
            height=low - axes.y(1) + 4,
            class_="outline",
        )
    )
    parts.append(element("path", d=f"M{middle:.1f},{axes.y(1) - 4}l-6,-9h12z", class_="pointer"))
    said = ", ".join(f"exit {k} {percent(rate)}" for k, rate in enumerate(point.rates))
    return element(
        "g",
        *parts,
        class_="column",
        data_b=number,
        role="img",
        aria_label=f"Budget {short_percent(point.budget)}: {said}",
    )


def _share_grid(axes: Axes) -> Iterator[Markup]:
    for share in (0, 0.25, 0.5, 0.75, 1):
        place = axes.y(share)
        yield element(
            "line", x1=axes.left, x2=axes.width - axes.right, y1=place, y2=place, class_="grid"
        )
        yield element("text", f"{100 * share:g}", x=axes.left - 7, y=place + 4, text_anchor="end")


def _unit_grid(axes: Axes) -> Iterator[Markup]:
    yield from _share_grid(axes)
    for share in (0, 0.5, 1):
        yield element(
            "text", f"{100 * share:g}", x=axes.x(share), y=axes.y(0) + 14, text_anchor="middle"
        )
