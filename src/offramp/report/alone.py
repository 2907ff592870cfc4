"""The part of the page that shows what one study's policies trade: accuracy against cost."""

from __future__ import annotations

from collections.abc import Iterator

from . import tables
from .axes import NARROW, WIDE
from .looks import CONTROL_SHAPE, CROSS, DIAMOND, RULE, STAR, Looks, static_key, swatch
from .markup import Markup, element
from .study import Study
from .trade import accuracy_cost, swept_outside
from .words import COST, errors_meant


def trade(study: Study, looks: Looks) -> Markup:
    """Accuracy against cost, with all that competes."""
    return element(
        "section",
        element("h2", "Accuracy against cost"),
        element(
            "figure",
            element("div", accuracy_cost(study, looks, WIDE), class_="wide"),
            element("div", accuracy_cost(study, looks, NARROW), class_="narrow"),
            element("ul", *_legend_items(study, looks), class_="legend"),
            element("figcaption", _note(study, looks)),
        ),
        tables.rules([study], looks),
        tables.behind(tables.curves([study], looks), tables.fixed([study], looks)),
    )


def _note(study: Study, looks: Looks) -> str:
    unit, timed = COST[study.unit], study.unit == "latency_ms"
    note = (
        "Up and to the left is better. Cost is the mean over the test part, relative to the full "
        f"network's {unit}{'' if timed else '; it is counted and is no time'}. The axis of "
        "accuracy does not start at zero."
    )
    if len(study.seeds) > 1:
        note += (
            " Marks are means over seeds, shaded bands reach from the lowest to the highest "
            "accuracy of a seed. Lines join points of the same seeds only; an open mark lacks "
            "some seed."
        )
    said = [errors_meant([study]), *_of_rules(study), *_of_sweeps(study, looks)]
    return " ".join(part for part in (note, *said) if part)


def _of_rules(study: Study) -> Iterator[str]:
    if any(curve.rule for curve in study.curves):
        yield "A star with eight points is a policy at its published rule, fitted to no budget."


def _of_sweeps(study: Study, looks: Looks) -> Iterator[str]:
    if any(sweep.unit != study.unit for sweep in study.sweeps.values()):
        yield "The sweep over alpha has costs in another unit and stands below by itself."
    outside, known = swept_outside(study, looks)
    if outside:
        yield f"Outside these axes, and only in the sweep below: {outside} of {known} alphas."


def _legend_items(study: Study, looks: Looks) -> Iterator[Markup]:
    for curve in study.curves:
        drawn = swatch(looks.shape(0, curve), looks.colour(0, curve), looks.dashes(0, curve))
        yield element("li", drawn, curve.policy + (" (control)" if curve.control else ""))
    for curve in study.curves:
        if curve.rule:
            drawn = swatch(RULE, looks.colour(0, curve), line=False)
            yield element("li", drawn, f"{curve.policy}: published rule")
    if any(sweep.unit == study.unit for sweep in study.sweeps.values()):
        part = "" if _tested(study) else ", calibration part"
        drawn = swatch(CONTROL_SHAPE, f"{looks.sweep} hollow", "4 3")
        yield element("li", drawn, f"gates over alpha{part}")
    for index, static in enumerate(study.static):
        drawn = swatch(CROSS, "static", line=False)
        yield element("li", drawn, f"{static_key(index)}: {static.name}")
    yield element("li", swatch(DIAMOND, "exit", line=False), "every input at that exit")
    yield element("li", swatch(STAR, "star", line=False), "full network")


def _tested(study: Study) -> bool:
    """Whether the alphas of every sweep are scored on the test part."""
    return all(step.test for sweep in study.sweeps.values() for step in sweep.points)
