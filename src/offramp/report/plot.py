"""The picture: accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ValidationError, extra
from ..files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..evaluate import ExitResult, Result

Point = tuple[float, float]  # cost relative to the full network, accuracy in [0, 1]

# Okabe and Ito (2008): told apart with any colour vision; grey is kept for the controls.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X")
_LABEL: Mapping[str, Any] = {
    "xytext": (0, -16),
    "textcoords": "offset points",
    "ha": "center",
    "fontsize": 8,
    "color": "#333333",
    "bbox": {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
    "zorder": 6,
}
_CONTROLS: Mapping[str, tuple[str, str]] = {"random": ("#777777", ":"), "oracle": ("#777777", "--")}


def accuracy_cost(
    curves: Mapping[str, Sequence[Result]],
    *,
    exits: Sequence[ExitResult],
    full: Point,
    static: Sequence[tuple[str, float, float]] = (),
    path: str | Path,
    title: str = "Accuracy against cost",
) -> Path:
    """Draw accuracy against realised cost: a line per policy, and what they compete with.

    Args:
        curves: results over budgets by the name of the policy; ``random`` and ``oracle`` are drawn
            as the controls they are.
        exits: every exit by itself, in order: what all inputs leaving there would give.
        full: cost and accuracy of the full network, without early heads.
        static: networks that always do the same work: name, relative cost, accuracy.
        path: where to write; the suffix says the format, ``.png`` or ``.svg``.
        title: heading of the picture.

    Returns:
        The path that was written.

    Raises:
        ValidationError: if the suffix is another or a curve has no points.
        MissingExtraError: if matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValidationError(f"wanted a path that ends in .png or .svg, got {path}")
    empty = [name for name, results in curves.items() if not results]
    if empty:
        raise ValidationError(f"wanted at least one result per curve, got none for {empty}")
    with extra("report"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _exits(axes, [(e.cost, e.top1) for e in exits])
    _policies(axes, curves)
    _rivals(axes, full, static)
    _frame(axes, title)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return _save(figure, path)


def _policies(axes: Axes, curves: Mapping[str, Sequence[Result]]) -> None:
    """A line per policy; later ones are thinner, so that those that agree stay visible."""
    shown = [name for name in curves if name not in _CONTROLS]
    for name, results in curves.items():
        points = sorted((r.cost, 100 * r.accuracy) for r in results)
        x, y = [p[0] for p in points], [p[1] for p in points]
        if name in _CONTROLS:
            colour, dashes = _CONTROLS[name]
            style = {"color": colour, "ls": dashes, "lw": 1.5, "marker": ".", "zorder": 2}
            axes.plot(x, y, label=f"{name} (control)", gid=f"policy-{name}", **style)
            continue
        number = shown.index(name)
        over = len(shown) - 1 - number  # drawn on top of it
        style = {"color": _COLOURS[number % len(_COLOURS)], "lw": 1.4 + 0.9 * over}
        style |= {"marker": _MARKERS[number % len(_MARKERS)], "ms": 4.5 + 1.4 * over}
        axes.plot(x, y, label=name, gid=f"policy-{name}", zorder=3, **style)


def _exits(axes: Axes, points: Sequence[Point]) -> None:
    """Every exit by itself: open circles with a name."""
    if not points:
        return
    x, y = [p[0] for p in points], [100 * p[1] for p in points]
    axes.plot(
        x,
        y,
        "o",
        mfc="white",
        mec="black",
        ms=9,
        mew=1.4,
        ls="",
        label="every input at one exit",
        zorder=4,
        gid="exits",
    )
    for k, (cost, accuracy) in enumerate(zip(x, y, strict=True)):
        axes.annotate(f"exit {k}", (cost, accuracy), **_LABEL)


def _rivals(axes: Axes, full: Point, static: Sequence[tuple[str, float, float]]) -> None:
    """The full network, with its accuracy carried across, and other networks of fixed cost."""
    cost, accuracy = full[0], 100 * full[1]
    axes.axhline(accuracy, color="black", lw=0.8, alpha=0.4, zorder=1)
    axes.plot(
        [cost],
        [accuracy],
        "*",
        color="black",
        ms=14,
        ls="",
        label="full network",
        zorder=5,
        gid="full",
    )
    for name, cost, accuracy in static:
        axes.plot(
            [cost],
            [100 * accuracy],
            "X",
            color="black",
            ms=10,
            mec="white",
            ls="",
            label=name,
            zorder=5,
            gid=f"static-{name}",
        )


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("mean cost of an answer (multiply-accumulates, full network = 1)")
    axes.set_ylabel("accuracy on the test part, %")
    axes.set_xlim(left=0)
    axes.margins(x=0.06, y=0.08)
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Any, path: Path) -> Path:
    """Write whole or not at all, so that a reader never meets half a picture."""
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=160)
    return path
