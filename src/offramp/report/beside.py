"""The parts of the page that put studies side by side, and the pictures of their routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from . import tables
from .axes import NARROW, WIDE
from .compare import Comparison
from .configured import routes_of
from .looks import Looks, letter, swatch
from .markup import Markup, element
from .schemes import gains_by_exit, routes_picture, scores_by_exit
from .study import Study
from .trade import policy_cost
from .words import COST, errors_meant, gained, measured

if TYPE_CHECKING:
    from ..runs.routing import Stretch


def side_by_side(compared: Comparison, looks: Looks) -> Markup:
    """Scores by exit, and gains over the baseline, as pictures and tables."""
    base = f"{letter(compared.baseline)}: {compared.schemes[compared.baseline].name}"
    note = (
        "Marks are means over seeds, bars reach from the lowest to the highest seed. No policy "
        "takes part: every input is answered at that exit."
    )
    parts = [
        element("h2", "Side by side"),
        element("h3", f"{measured(compared)} by exit"),
        element(
            "figure",
            *_both(scores_by_exit(compared, looks, size) for size in (WIDE, NARROW)),
            _legend(compared, looks),
            element("figcaption", note),
        ),
        tables.scores(compared),
    ]
    if any(score.gains for _, scheme in compared.others for score in scheme.exits):
        note = (
            "Differences are taken seed by seed, and then their mean. Bars are 95% confidence "
            "intervals of that mean, by Student's t; they need two paired seeds and hold for the "
            "draw of seeds, on this test part. Seeds must share their data for the pairs to mean "
            "something."
        )
        parts += [
            element("h3", f"Gain over {base}"),
            element("ul", *_said(compared), class_="said"),
            element(
                "figure",
                *_both(gains_by_exit(compared, looks, size) for size in (WIDE, NARROW)),
                _legend(compared, looks, but=compared.baseline),
                element("figcaption", note),
            ),
            tables.gains(compared),
        ]
    return element("section", *parts, id="side-by-side")


def trade(studies: Sequence[Study], looks: Looks) -> Markup:
    """Accuracy against cost, one policy at a time, a curve for each study."""
    controls = {c.policy: c.control for study in studies for c in study.curves}
    if not controls:
        return Markup("")
    what = "mIoU" if looks.measure == "mIoU" else "accuracy"
    timed = studies[0].unit == "latency_ms"
    note = (
        "Up and to the left is better. Cost is the mean over the test part, relative to each full "
        f"network's {COST[studies[0].unit]}{'' if timed else '; it is counted and is no time'}. "
        f"The axis of {what} does not start at zero. Marks are means over seeds, shaded bands "
        "reach from the lowest to the highest seed."
    )
    if meant := errors_meant(studies):
        note += f" {meant}"
    if any(curve.rule for study in studies for curve in study.curves):
        note += " A star with eight points is the policy at its published rule."
    figures = [
        element(
            "div",
            element("h3", policy + (" (control)" if control else "")),
            *_both(policy_cost(studies, policy, looks, size) for size in (WIDE, NARROW)),
            class_="by-policy",
            data_policy=policy,
        )
        for policy, control in controls.items()
    ]
    return element(
        "section",
        element("h2", f"{'mIoU' if what == 'mIoU' else 'Accuracy'} against cost"),
        element("figure", *figures, _studies(studies, looks), element("figcaption", note)),
        tables.rules(studies, looks),
        tables.behind(tables.curves(studies, looks), tables.fixed(studies, looks)),
    )


def routes(studies: Sequence[Study], looks: Looks) -> Markup:
    """Which exit trained which segment; of a single study where it is not all that could be."""
    told = [routes_of(study.config, study.num_exits) for study in studies]
    drawn = [_merged(stretches) for stretches in told]
    if not (any(told) if looks.several else any(s.routed for stretches in told for s in stretches)):
        return Markup("")
    note = (
        "A row per exit, a column per segment; a filled square says that the exit's terms move "
        "that segment's weights, an empty one that the exit only reads what passes through it. The "
        "dot is the exit's head, which learns the exit's own terms."
    )
    figures = [
        _figure(f"{letter(number)}: {study.name}" if looks.several else "", stretch, stretches)
        for number, (study, stretches) in enumerate(zip(studies, drawn, strict=True))
        for stretch in stretches
    ]
    behind = [tables.routes(stretch) for stretches in told for stretch in stretches]
    unknown = [s.name for s, stretches in zip(studies, told, strict=True) if not stretches]
    lacking = f" Of {'; '.join(unknown)} it is not known." if unknown else ""
    return element(
        "section",
        element("h2", "Which exit trains which segment"),
        element("p", note + lacking, class_="note"),
        element("div", *figures, class_="panels"),
        tables.behind(*behind),
    )


# ------------------------------------------------------------------------ pieces
def _both(pictures: Iterator[Markup]) -> Iterator[Markup]:
    """A picture for a desktop and one for a phone."""
    for drawn, class_ in zip(pictures, ("wide", "narrow"), strict=True):
        yield element("div", drawn, class_=class_)


def _said(compared: Comparison) -> Iterator[Markup]:
    """The first and the last exit in words: where routes matter most."""
    last = compared.num_exits - 1
    for number, scheme in compared.others:
        ends = dict.fromkeys((0, last))
        told = "; ".join(f"exit {k} {gained(scheme.exits[k])}" for k in ends)
        yield element("li", element("b", f"{letter(number)}: {scheme.name}"), f": {told}")


def _legend(compared: Comparison, looks: Looks, but: int | None = None) -> Markup:
    items = [
        element("li", _swatch(number, looks), f"{letter(number)}: {scheme.name}")
        for number, scheme in enumerate(compared.schemes)
        if number != but
    ]
    return element("ul", *items, class_="legend")


def _studies(studies: Sequence[Study], looks: Looks) -> Markup:
    items = [
        element("li", _swatch(number, looks), f"{letter(number)}: {study.name}")
        for number, study in enumerate(studies)
    ]
    return element("ul", *items, class_="legend")


def _swatch(number: int, looks: Looks) -> Markup:
    return swatch(looks.study_shape(number), looks.study(number), looks.study_dashes(number))


def _merged(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Stretches that look alike as one: their terms differ, but not which segments they move."""
    merged: list[Stretch] = []
    for each in stretches:
        last = merged[-1] if merged else None
        same = last and (last.phase, last.table) == (each.phase, each.table)
        if last and same and (last.gains[0] is None) == (each.gains[0] is None):
            merged[-1] = replace(last, end=each.end)
        else:
            merged.append(each)
    return merged


def _figure(name: str, stretch: Stretch, of: Sequence[Stretch]) -> Markup:
    said = [] if name.endswith(stretch.objective) else [stretch.objective]
    if of[-1].phase > 0:
        said.append(f"phase {stretch.phase}")
    if sum(other.phase == stretch.phase for other in of) > 1:
        said.append(f"progress {stretch.start:g} to {stretch.end:g}")
    if stretch.cost is not None:
        said.append(f"a training step costs {stretch.cost:.2f} times joint training's, by count")
    else:
        said.append(f"only trained: {', '.join(map(str, stretch.train))}")
    if stretch.gains[0]:
        said.append("gradients are scaled at the boundaries")
    return element(
        "figure",
        element("h4", name) if name else "",
        routes_picture(stretch),
        element("figcaption", "; ".join(said)),
    )
