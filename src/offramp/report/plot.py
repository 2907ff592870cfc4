"""The picture: accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Averaged(NamedTuple):
    """A policy at one operating point over seeds; see `over_seeds`."""

    cost: float  # mean, relative to the full network
    accuracy: float  # mean
    cost_range: tuple[float, float]  # lowest and highest seed
    accuracy_range: tuple[float, float]


def over_seeds(runs: Sequence[Sequence[Result]]) -> list[Averaged]:
    """Bring the results of several seeds together, for `accuracy_cost`.

    Args:
        runs: of each seed, results at the same operating points in the same order.

    Raises:
        ValidationError: if there are none, or seeds differ in their budgets.

    Example:
        >>> curves = {"max_prob": over_seeds([curve("max_prob", ...) for seed in range(3)])}
    """
    if not runs or len({tuple(_budget(r) for r in results) for results in runs}) > 1:
        budgets = [[_budget(r) for r in results] for results in runs]
        raise ValidationError(f"wanted results of every seed at the same budgets, got {budgets}")
    return [_averaged(column) for column in zip(*runs, strict=True)]


def accuracy_cost(
    curves: Mapping[str, Sequence[Result | Averaged]],
    *,
    exits: Sequence[ExitResult],
    full: Point,
    static: Sequence[tuple[str, float, float]] = (),
    rules: Mapping[str, Result | Averaged] | None = None,
    full_macs: float | None = None,
    error_bars: bool = False,
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
        rules: policies at the rules that they were published with, each a star of its colour.
        full_macs: multiply-accumulates of the full network, where costs are relative to them; they
            give the axis of cost a second scale.
        error_bars: draw error bars of policies and rules: of a `Result` one standard error to
            either side, of what `over_seeds` gives from the lowest to the highest seed.
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
    if full_macs is not None and not full_macs > 0:
        raise ValidationError(f"wanted full_macs as a positive number, got {full_macs!r}")
    with extra("report"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _exits(axes, [(e.cost, e.top1) for e in exits])
    _policies(axes, curves, error_bars)
    _rules(axes, rules or {}, list(curves), error_bars)
    _rivals(axes, full, static)
    _frame(axes, title)
    if full_macs is not None:
        _counted(axes, full_macs)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return _save(figure, path)


def _policies(
    axes: Axes, curves: Mapping[str, Sequence[Result | Averaged]], error_bars: bool
) -> None:
    """A line per policy; later ones are thinner, so that those that agree stay visible."""
    shown = _shown(curves)
    for name, results in curves.items():
        found = sorted(results, key=lambda result: (result.cost, result.accuracy))
        x, y = [r.cost for r in found], [100 * r.accuracy for r in found]
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
        if error_bars:
            _bars(axes, found, _COLOURS[number % len(_COLOURS)], f"errors-{name}")


def _shown(names: Iterable[str]) -> list[str]:
    """Policies, which have colours of their own."""
    return [name for name in names if name not in _CONTROLS]


def _rules(
    axes: Axes, rules: Mapping[str, Result | Averaged], names: Sequence[str], error_bars: bool
) -> None:
    """A star of its policy's colour for each published rule."""
    shown = _shown(dict.fromkeys([*names, *rules]))
    for name, rule in rules.items():
        colour = _COLOURS[shown.index(name) % len(_COLOURS)]
        style = {"color": colour, "mec": "black", "mew": 0.8, "ms": 15, "ls": ""}
        label = f"{name}: published rule"
        place = [rule.cost], [100 * rule.accuracy]
        axes.plot(*place, label=label, marker=(8, 1, 0), gid=f"rule-{name}", zorder=7, **style)
        if error_bars:
            _bars(axes, [rule], colour, f"errors-rule-{name}")


def _bars(axes: Axes, found: Sequence[Result | Averaged], colour: str, gid: str) -> None:
    """Error bars both ways, behind the marks."""
    ends = [(*_ends(r, "cost"), *_ends(r, "accuracy")) for r in found]
    left, right, low, high = ([e[side] for e in ends] for side in range(4))
    bars = axes.errorbar(
        [r.cost for r in found],
        [100 * r.accuracy for r in found],
        xerr=(left, right),
        yerr=([100 * each for each in low], [100 * each for each in high]),
        fmt="none",
        ecolor=colour,
        elinewidth=1.0,
        capsize=2.5,
        alpha=0.65,
        zorder=2.5,
    )
    for number, lines in enumerate(bars.lines[2]):
        lines.set_gid(f"{gid}-{'xy'[number]}")


def _ends(result: Result | Averaged, what: str) -> tuple[float, float]:
    """How far an error bar reaches below and above its figure."""
    if isinstance(result, Averaged):
        low, high = result.cost_range if what == "cost" else result.accuracy_range
        middle = result.cost if what == "cost" else result.accuracy
        return max(middle - low, 0.0), max(high - middle, 0.0)
    stderr = result.cost_stderr if what == "cost" else result.stderr
    return stderr, stderr


def _budget(result: Result) -> float | None:
    return None if result.budget is None else round(result.budget, 6)


def _averaged(column: Sequence[Result]) -> Averaged:
    costs, accuracies = [r.cost for r in column], [r.accuracy for r in column]
    return Averaged(
        mean(costs),
        mean(accuracies),
        (min(costs), max(costs)),
        (min(accuracies), max(accuracies)),
    )


def _counted(axes: Axes, full_macs: float) -> None:
    """The axis of cost once more, in multiply-accumulates."""
    size, prefix = next(
        ((n, p) for n, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if full_macs >= n), (1.0, "")
    )
    scale = full_macs / size

    def counted(cost: Any) -> Any:
        return cost * scale

    def cost_of(count: Any) -> Any:
        return count / scale

    second = axes.secondary_xaxis("top", functions=(counted, cost_of))
    second.set_xlabel(f"mean multiply-accumulates of an answer{f', {prefix}' if prefix else ''}")
    second.spines["top"].set_visible(False)
    second.set_gid("macs")


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
