"""The tables behind the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .compare import Comparison
from .looks import Looks, letter
from .markup import Markup, element, join
from .points import Curve, Figures, Spread
from .schemes import segments_of
from .study import Slice, Study
from .words import (
    count,
    gained,
    measured,
    operating_point,
    over,
    percent,
    plain,
    points,
    scale,
    seeds_of,
    shares,
    short_percent,
    with_range,
)

if TYPE_CHECKING:
    from ..runs.routing import Stretch

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
    """Every policy at every budget, and at the rule it was published with."""
    told = any(study.told_errors for study in studies)
    head = [
        *("policy", "budget", "cost", *(["MACs"] if told else []), "accuracy"),
        *("against the full network", "left early", "of", "budget kept"),
    ]
    rows = [
        [
            _named(number, looks) + curve.policy + (" (control)" if curve.control else ""),
            operating_point(point).removeprefix("budget "),
            with_range(point.cost),
            *([counted(point)] if told else []),
            with_range(point.accuracy),
            points(-point.drop.mean),
            percent(point.left.mean),
            seeds_of(study, point),
            "" if point is curve.rule else over(point).replace("the budget ", "") or "yes",
        ]
        for number, study in enumerate(studies)
        for curve in study.curves
        for point in curve.all_points
    ]
    return table(f"Policies by budget: {_figures_are(studies)}", head, rows)


def rules(studies: Sequence[Study], looks: Looks) -> Markup:
    """Policies at the rules they were published with; nothing where there are none."""
    head = ["policy", "accuracy", "against the full network", "cost", "MACs"]
    head += [*(f"exit {k}" for k in range(studies[0].num_exits)), "of"]
    rows = [
        [
            _named(number, looks) + curve.policy,
            with_range(curve.rule.accuracy),
            points(-curve.rule.drop.mean),
            with_range(curve.rule.cost),
            counted(curve.rule),
            *shares(curve.rule),
            seeds_of(study, curve.rule),
        ]
        for number, study in enumerate(studies)
        for curve in study.curves
        if curve.rule
    ]
    caption = f"Published rules, fitted to no budget: {_figures_are(studies)}"
    return table(caption, head, rows) if rows else Markup("")


def _figures_are(studies: Sequence[Study]) -> str:
    """What figures and the brackets behind them are."""
    if any(study.told_errors for study in studies) and all(len(s.seeds) == 1 for s in studies):
        return "test part, \N{PLUS-MINUS SIGN} one standard error (inputs as independent draws)"
    if any(study.told_errors for study in studies):
        return (
            "mean, and lowest to highest over seeds; \N{PLUS-MINUS SIGN} one standard error, of "
            "exits' shares over seeds"
        )
    return "mean, and lowest to highest over seeds"


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
    if any(study.task == "map" for study in studies):
        head.append("mIoU")
        mious = [each for study in studies for each in _mious(study)]
        rows = [[*row, miou] for row, miou in zip(rows, mious, strict=True)]
    return table("Every input at one exit, and networks without exits", head, rows)


def rates(study: Study, curve: Curve) -> Markup:
    """Exit rates of a policy by budget."""
    head = ["budget", *(f"exit {k}" for k in range(study.num_exits)), "of"]
    rows = [
        [operating_point(p).removeprefix("budget "), *shares(p), seeds_of(study, p)]
        for p in curve.all_points
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


def _mious(study: Study) -> list[str]:
    """Of the rows of a study among those without a policy."""
    return [*(_maybe(exit.miou) for exit in study.exits), *[""] * (1 + len(study.static))]


def scores(compared: Comparison) -> Markup:
    """Every study's score at every exit."""
    rows = [
        [
            f"{letter(number)}: {scheme.name}",
            *(_two_lines(with_range(score.spread, 2)) for score in scheme.exits),
            str(len(scheme.seeds)),
        ]
        for number, scheme in enumerate(compared.schemes)
    ]
    caption = f"{measured(compared)} by exit: mean, and lowest to highest over seeds"
    return table(caption, [*_exit_heads("study", compared), "seeds"], rows)


def gains(compared: Comparison) -> Markup:
    """What every other study gains over the baseline at every exit, in points."""
    rows = [
        [
            f"{letter(number)}: {scheme.name}",
            *(_two_lines(gained(score).replace(" points", "")) for score in scheme.exits),
            str(len(scheme.shared)),
        ]
        for number, scheme in compared.others
    ]
    base = f"{letter(compared.baseline)}: {compared.schemes[compared.baseline].name}"
    caption = (
        f"Gain in {compared.measure} over {base}, percentage points: mean over paired seeds, 95% "
        "t-interval, seeds that gain"
    )
    return table(caption, [*_exit_heads("study", compared), "paired seeds"], rows)


def routes(stretch: Stretch) -> Markup:
    """Which segments every exit trains, by which terms."""
    gains = stretch.gains[0]
    head = ["exit", "trains", "terms", *(["gain of its head", "gain of the next"] if gains else [])]
    rows = []
    for k, row in enumerate(stretch.table):
        terms = [f"{t.name} since {t.since}" for t in stretch.terms if k in t.exits]
        cells = [f"exit {k}", segments_of(row), ", ".join(terms)]
        if gains:
            last = k + 1 == stretch.num_exits
            cells += [plain(gains.heads[k]), "" if last else plain(gains.boundaries[k])]
        rows.append(cells)
    return table(f"Routes of {stretch.objective}", head, rows)


def counted(figures: Figures) -> str:
    """Write multiply-accumulates per input, with their range or their error."""
    macs = figures.macs
    if macs is None:
        return ""
    size, prefix = scale(macs.mean)
    mean, low, high = (plain(value / size) for value in (macs.mean, macs.low, macs.high))
    if macs.stderr is not None:
        digits = len(mean.partition(".")[2])
        return f"{mean} \N{PLUS-MINUS SIGN} {macs.stderr / size:,.{digits}f} {prefix}".rstrip()
    return f"{mean}{'' if low == high else f' ({low} to {high})'} {prefix}".rstrip()


def _two_lines(text: str) -> Markup:
    """A figure, and below it what stands behind it in brackets, and what comes after those."""
    mean, bracket, rest = text.partition(" (")
    inside, _, after = rest.partition("), ")
    below = [inside + (")" if after else ""), after] if bracket else []
    return join(
        mean,
        *(element("small", f"({each}" if n == 0 else each) for n, each in enumerate(below) if each),
    )


def _exit_heads(first: str, compared: Comparison) -> list[str]:
    return [first, *(f"exit {k}" for k in range(compared.num_exits))]


def _named(number: int, looks: Looks) -> str:
    return f"{letter(number)}: " if looks.several else ""


def _maybe(figure: Spread | None) -> str:
    return with_range(figure) if figure else ""


def _ranged(figure: Spread | None) -> str:
    if figure is None:
        return ""
    mean, low, high = (plain(value) for value in (figure.mean, figure.low, figure.high))
    return mean if low == high else f"{mean} ({low} to {high})"
