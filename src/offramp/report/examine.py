"""Confidence against correctness: when an early exit is right where the last one is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from . import tables
from .looks import Looks
from .markup import Markup, element
from .study import Counts, Study
from .words import percent, runs, short_percent

Row = list[str]
_HEAD = ("inputs", "right here, wrong at the last", "wrong here, right at the last", "both wrong")


def examined(studies: Sequence[Study], looks: Looks) -> Markup:
    """A table per policy at its published rule, else at its middle budget; the others behind it."""
    parts = [
        _policy(number, p, study, curve.policy, looks)
        for number, study in enumerate(studies)
        for p, curve in enumerate(study.curves)
        if study.examined.get(curve.policy) and study.num_exits > 1
    ]
    if not parts:
        return Markup("")
    note = (
        "Every input of the test part is asked at every early exit, whether or not it gets there: "
        "does the exit's score reach its threshold (leave) or not (stay), and who is right, this "
        "exit or the last one? Shares are of the inputs of the row, counts stand in brackets. A "
        "score that knows its exit lets few go that are wrong here and right at the last."
    )
    heading = element("h2", "The early exit or the last one: who is right?")
    return element("section", heading, element("p", note, class_="note"), *parts, id="examine")


def _policy(number: int, p: int, study: Study, policy: str, looks: Looks) -> Markup:
    points = study.examined[policy]
    name = "rule" if "rule" in points else list(points)[len(points) // 2]
    head = ["at exit, score says", *_HEAD]
    caption = f"{policy}, {_named(name)}{_seeds(study)}"
    shown = tables.table(caption, head, _rows(points[name]))
    others = [
        [f"{_named(other)}: {row[0]}", *row[1:]]
        for other in points
        if other != name
        for row in _rows(points[other])
    ]
    behind = ""
    if others:
        inner = tables.table(f"{policy}{_seeds(study)}", ["at", *_HEAD], others)
        behind = tables.behind(inner, summary="At the other operating points")
    title = f"{study.name}: {policy}" if looks.several else policy
    return element(
        "div",
        element("h3", title),
        shown,
        behind,
        class_="of-policy",
        data_study=number,
        data_policy=p,
    )


def _rows(counts: Counts) -> list[Row]:
    """Two rows for each early exit: where its score says leave, and where it says stay."""
    return [
        [f"exit {k}, {'leave' if reaches else 'stay'}", *_cells(counts[k][reaches])]
        for k in range(len(counts) - 1)
        for reaches in (1, 0)
    ]


def _cells(found: list[list[int]]) -> Row:
    """Inputs by [right here][right at the last]."""
    total = sum(map(sum, found))
    shown = (found[1][0], found[0][1], found[0][0])
    return [f"{total:,}", *(f"{percent(n / total)} ({n:,})" if total else "" for n in shown)]


def _named(point: str) -> str:
    """An operating point, whose name is its budget."""
    if point == "rule":
        return "published rule"
    try:
        return f"budget {short_percent(float(point))}"
    except ValueError:
        return point


def _seeds(study: Study) -> str:
    return f"; inputs of {runs(len(study.seeds))} together" if len(study.seeds) > 1 else ""
