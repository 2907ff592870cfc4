"""Pictures of where inputs leave and of calibration, as SVG that stands without a script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .axes import Axes, picture
from .looks import exit_colour, ink_on
from .markup import Markup, element
from .points import Curve, Figures, Point
from .study import Slice, Study
from .words import operating_point, percent, shares, short_percent


def exit_rates(study: Study, curve: Curve, size: tuple[int, int]) -> Markup:
    """Share of inputs that leave by each exit, a column per budget."""
    width, height = size[0], round(size[1] * 0.72)
    axes = Axes(width, height, (0, 1), (0, 1), top=18)
    gap = 0.5 if curve.rule else 0.0  # columns between the budgets and the rule
    step = (width - axes.left - axes.right) / (len(curve.all_points) + gap)
    letters = max(len(short_percent(point.budget)) for point in curve.points)
    every = math.ceil((8 * letters + 12) / step)  # budgets that get a label
    parts: list[str] = [element("g", *_share_grid(axes), aria_hidden="true")]
    for number, point in enumerate(curve.all_points):
        if isinstance(point, Point):
            left = axes.left + step * (number + 0.12)
            label = short_percent(point.budget) if number % every == 0 else ""
            if curve.rule and (len(curve.points) - number) * step < 4 * letters + 26:
                label = ""  # it would touch the rule's
        else:
            left, label = axes.left + step * (number + gap + 0.12), "rule"
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


def histogram(figures: Figures, size: tuple[int, int]) -> Markup:
    """Share of inputs by exit at one operating point, with errors; the script moves its bars."""
    num, height = len(figures.rates), 190
    axes = Axes(size[0], height, (-0.5, num - 0.5), (0, 1), top=26, bottom=44)
    parts = [element("g", *_share_grid(axes), aria_hidden="true"), axes.labels("exit", "inputs, %")]
    parts += [_share_bar(axes, k, figures) for k in range(num)]
    label = "Exit histogram of the chosen operating point; the legend above has the figures."
    return picture(size[0], height, *parts, label=label, class_="chart histogram")


# ------------------------------------------------------------------------ pieces
def _column(
    axes: Axes, point: Figures, number: int, left: float, width: float, label: str
) -> Markup:
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
    said = ", ".join(f"exit {k} {share}" for k, share in enumerate(shares(point)))
    return element(
        "g",
        *parts,
        class_="column",
        data_b=number,
        role="img",
        aria_label=f"{operating_point(point).capitalize()}: {said}",
    )


def _share_bar(axes: Axes, k: int, figures: Figures) -> Markup:
    """The bar of one exit; it carries what the script needs to move it."""
    num, x = len(figures.rates), axes.x(k)
    room = axes.x(k + 0.5) - axes.x(k - 0.5)
    wide, rate = min(0.64 * room, 90), figures.rates[k]
    top, foot = axes.y(rate), axes.y(0)
    stderr = figures.rate_errors[k] if figures.rate_errors else 0.0
    high, low = (axes.y(min(max(rate + way * stderr, 0), 1)) for way in (1, -1))
    said = percent(rate) if room > 46 else ""
    return element(
        "g",
        element(
            "rect",
            x=x - wide / 2,
            y=top,
            width=wide,
            height=foot - top,
            fill=exit_colour(k, num),
            class_="part",
        ),
        element("path", d=f"M{x:g},{low:g}V{high:g}M{x - 4:g},{low:g}h8M{x - 4:g},{high:g}h8"),
        element("text", said, x=x, y=high - 5, text_anchor="middle", class_="value"),
        element("text", str(k), x=x, y=foot + 17, text_anchor="middle"),
        class_="share-bar",
        data_x=x,
        data_top=axes.y(1),
        data_foot=foot,
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
