"""The tables behind the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .looks import Looks, letter
from .markup import Markup, element
from .study import Curve, Slice, Spread, Study
from .words import count, over, percent, plain, points, seeds_of, short_percent, with_range

Row = Sequence[str]


def table(caption: str, head: Row, rows: Iterable[Row]) -> Markup:
    """A table in a box of its own, which scrolls where the page is narrow."""
    top = element("tr", *(element("th", name, scope="col") for name in head))
    body = [
        element(
            "tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])
        )
        for row in rows
    ]
    inner = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", top),
        element("tbody", *body),
    )
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def behind(*tables: str, summary: str = "The table behind it") -> Markup:
    """Tables that open below a picture."""
    return element("details", element("summary", summary), *tables)


def curves(studies: Sequence[Study], looks: Looks) -> Markup:
    """Every policy at every budget."""
    head = [
        *("policy", "budget", "cost", "accuracy", "against the full network", "left early", "of"),
        "budget kept",
    ]
    rows = [
        [
            _named(number, looks) + curve.policy + (" (control)" if curve.control else ""),
            short_percent(point.budget),
            with_range(point.cost),
            with_range(point.accuracy),
            points(-point.drop.mean),
            percent(point.left.mean),
            seeds_of(study, point),
            over(point).replace("the budget ", "") or "yes",
        ]
        for number, study in enumerate(studies)
        for curve in study.curves
        for point in curve.points
    ]
    return table("Policies by budget: mean, and lowest to highest over seeds", head, rows)


def fixed(studies: Sequence[Study], looks: Looks) -> Markup:
    """Exits by themselves, the full network, and static baselines."""
    rows: list[Row] = []
    for number, study in enumerate(studies):
        prefix = _named(number, looks)
        for k, alone in enumerate(study.exits):
            figures = [_maybe(alone.top5), _ranged(alone.nll), _maybe(alone.ece)]
            sizes = [count(s.mean) if s else "" for s in (alone.macs, alone.params)]
            name = f"{prefix}exit {k}"
            rows.append(
                [name, with_range(alone.cost), with_range(alone.accuracy), *figures, *sizes]
            )
        rows.append([f"{prefix}full network", "100.0%", with_range(study.full), *[""] * 5])
        rows += [
            [f"{prefix}{s.name}", with_range(s.cost), with_range(s.accuracy), *[""] * 5]
            for s in study.static
        ]
    head = ["what", "cost", "accuracy", "top 5", "NLL, nats", "ECE", "MACs", "parameters"]
    return table("Every input at one exit, and networks without exits", head, rows)


def rates(study: Study, curve: Curve) -> Markup:
    """Exit rates of a policy by budget."""
    head = ["budget", *(f"exit {k}" for k in range(study.num_exits)), "of"]
    rows = [
        [short_percent(p.budget), *(percent(rate) for rate in p.rates), seeds_of(study, p)]
        for p in curve.points
    ]
    return table(f"Share of inputs that leave by each exit: {curve.policy}", head, rows)


def calibration(k: int, bins: Sequence[Slice]) -> Markup:
    """The bins of one exit that hold inputs."""
    num = len(bins)
    rows = [
        [
            f"{100 * b / num:.0f} to {100 * (b + 1) / num:.0f}%",
            percent(part.confidence),
            percent(part.accuracy),
            f"{part.num:,}",
        ]
        for b, part in enumerate(bins)
        if part.confidence is not None and part.accuracy is not None
    ]
    head = ["confidence bin", "mean confidence", "accuracy", "answers"]
    return table(f"Calibration of exit {k}", head, rows)


def timings(studies: Sequence[Study], looks: Looks) -> Markup:
    """What was measured on the clock."""
    head = [
        *("policy", "budget", "batch size", "ms per input", "full network, ms"),
        *("measured speed-up", "ideal", "efficiency", "seeds"),
    ]
    rows = [
        [
            _named(number, looks) + t.policy,
            short_percent(t.budget),
            str(t.batch_size),
            _ranged(t.ms),
            _ranged(t.full_ms),
            _ranged(t.speed_up),
            _ranged(t.ideal),
            percent(t.speed_up.mean / t.ideal.mean, 0),
            str(t.ms.num),
        ]
        for number, study in enumerate(studies)
        for t in study.timings
    ]
    return table("Measured times: mean, and lowest to highest over seeds", head, rows)


def _named(number: int, looks: Looks) -> str:
    return f"{letter(number)}: " if looks.several else ""


def _maybe(figure: Spread | None) -> str:
    return with_range(figure) if figure else ""


def _ranged(figure: Spread | None) -> str:
    if figure is None:
        return ""
    mean, low, high = (plain(value) for value in (figure.mean, figure.low, figure.high))
    return mean if low == high else f"{mean} ({low} to {high})"
