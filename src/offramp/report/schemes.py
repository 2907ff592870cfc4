"""Pictures of studies side by side: scores by exit, gains over the baseline, and routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .axes import Axes, padded, picture
from .compare import Comparison, Score
from .looks import Looks
from .markup import Markup, element
from .words import gained, with_range

if TYPE_CHECKING:
    from ..runs.routing import Stretch

SIDE, HEADS = 168.0, 44.0  # of a picture of routes: its grid, and the room left of it


def scores_by_exit(compared: Comparison, looks: Looks, size: tuple[int, int]) -> Markup:
    """Every study's score at every exit; bars reach from the lowest to the highest seed."""
    ends = [
        end
        for scheme in compared.schemes
        for score in scheme.exits
        for end in (score.spread.low, score.spread.high)
    ]
    low, high = padded(ends)
    axes = Axes(*size, (-0.5, compared.num_exits - 0.5), (max(low, 0), min(high, 1)))
    parts = [_frame(axes, compared, f"{compared.measure}, %")]
    for place, (number, scheme) in enumerate(enumerate(compared.schemes)):
        xs = _places(axes, place, len(compared.schemes), compared.num_exits)
        ys = [axes.y(score.spread.mean) for score in scheme.exits]
        bars = [(axes.y(s.spread.low), axes.y(s.spread.high)) for s in scheme.exits]
        told = [
            f"{scheme.name}, exit {k}: {compared.measure} {with_range(score.spread, 2)}"
            for k, score in enumerate(scheme.exits)
        ]
        parts.append(_series(looks, number, list(zip(xs, ys, strict=True)), bars, told))
    label = f"{compared.measure} by exit; the table below has the figures."
    return picture(*size, *parts, label=label, class_="chart hinted by-exit")


def gains_by_exit(compared: Comparison, looks: Looks, size: tuple[int, int]) -> Markup:
    """What every other study gains over the baseline; bars are 95 % intervals."""
    shown = [
        (number, scheme)
        for number, scheme in compared.others
        if any(score.gains for score in scheme.exits)
    ]
    ends = [0.0, *(end for _, scheme in shown for score in scheme.exits for end in _ends(score))]
    axes = Axes(*size, (-0.5, compared.num_exits - 0.5), padded(ends))
    parts = [_frame(axes, compared, f"gain in {compared.measure}, points")]
    zero = axes.y(0)
    parts.append(
        element("line", x1=axes.left, x2=axes.width - axes.right, y1=zero, y2=zero, class_="zero")
    )
    for place, (number, scheme) in enumerate(shown):
        xs = _places(axes, place, len(shown), compared.num_exits)
        ys = [axes.y(score.gain or 0.0) for score in scheme.exits]
        bars = [(axes.y(low), axes.y(high)) for low, high in map(_ends, scheme.exits)]
        told = [f"{scheme.name}, exit {k}: {gained(score)}" for k, score in enumerate(scheme.exits)]
        parts.append(_series(looks, number, list(zip(xs, ys, strict=True)), bars, told))
    label = "Gain over the baseline by exit; the table below has the figures."
    return picture(*size, *parts, label=label, class_="chart hinted by-exit")


def routes_picture(stretch: Stretch) -> Markup:
    """Which exit trains which segment: a row per exit, a column per segment, a dot per head."""
    num = stretch.num_exits
    cell = SIDE / (num + 1)
    every = -(-11 // int(cell)) if cell < 11 else 1  # rows and columns that get a number
    parts: list[str] = []
    for k, row in enumerate(stretch.table):
        top = 20 + k * cell
        if k % every == 0:
            middle = top + cell / 2 + 4
            parts.append(element("text", f"exit {k}", x=HEADS - 6, y=middle, text_anchor="end"))
            centre = HEADS + (k + 0.5) * cell
            parts.append(element("text", f"{k}", x=centre, y=13, text_anchor="middle"))
        parts += [
            element(
                "rect",
                x=HEADS + j * cell + 1,
                y=top + 1,
                width=cell - 2,
                height=cell - 2,
                class_="moved" if moves else "passed",
            )
            for j, moves in enumerate(row[: k + 1])
        ]
        place = {"cx": HEADS + (k + 1.5) * cell, "cy": top + cell / 2}
        parts.append(element("circle", r=max(cell * 0.22, 2.5), class_="head", **place))
    said = "; ".join(
        f"exit {k} trains {segments_of(stretch.table[k])}" for k in range(stretch.num_exits)
    )
    height = 20 + num * cell + 4
    return picture(HEADS + SIDE + 8, height, *parts, label=f"Routes: {said}", class_="routes")


def segments_of(row: Sequence[bool]) -> str:
    """Segments that an exit trains, in words: `segments 1 to 3`."""
    own = [j for j, moves in enumerate(row) if moves]
    if not own:
        return "no segment"
    if len(own) == 1:
        return f"segment {own[0]}"
    if own == list(range(own[0], own[-1] + 1)):
        return f"segments {own[0]} to {own[-1]}"
    return f"segments {', '.join(map(str, own))}"


# ------------------------------------------------------------------------ pieces
def _ends(score: Score) -> tuple[float, float]:
    """Where the bar of a gain begins and ends; a point where there is no interval."""
    return score.interval or (score.gain or 0.0, score.gain or 0.0)


def _places(axes: Axes, place: int, num: int, num_exits: int) -> list[float]:
    """Along the width: studies stand beside each other at every exit."""
    apart = min(0.11, 0.7 / max(num, 1))
    return [axes.x(k + (place - (num - 1) / 2) * apart) for k in range(num_exits)]


def _frame(axes: Axes, compared: Comparison, y_label: str) -> Markup:
    parts: list[str] = axes.rows()
    foot = axes.height - axes.bottom
    for k in range(compared.num_exits):
        parts.append(element("text", str(k), x=axes.x(k), y=foot + 17, text_anchor="middle"))
        if k:
            edge = axes.x(k - 0.5)
            parts.append(element("line", x1=edge, x2=edge, y1=axes.top, y2=foot, class_="grid"))
    return element("g", *parts, axes.labels("exit", y_label), aria_hidden="true")


def _series(
    looks: Looks,
    number: int,
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float]],
    told: Sequence[str],
) -> Markup:
    """A study: a line through its exits, a mark at each, and a bar behind the mark."""
    return element("g", *_pieces(looks, number, points, bars, told), class_=looks.study(number))


def _pieces(
    looks: Looks,
    number: int,
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float]],
    told: Sequence[str],
) -> Iterator[Markup]:
    yield element(
        "polyline",
        points=" ".join(f"{x:g},{y:g}" for x, y in points),
        class_="line thin",
        stroke_dasharray=looks.study_dashes(number),
    )
    for (x, _), (foot, top) in zip(points, bars, strict=True):
        if foot != top:
            yield element("path", d=f"M{x:g},{foot:g}V{top:g}", class_="bar-of")
    for (x, y), said in zip(points, told, strict=True):
        yield element(
            "g",
            element("path", d=looks.study_shape(number), class_="shape"),
            class_="rival",
            transform=f"translate({x:g},{y:g})",
            tabindex=-1,
            role="img",
            aria_label=said,
        )
