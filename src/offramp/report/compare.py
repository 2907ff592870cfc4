"""Studies side by side: every exit's score, and how far it is from the baseline's, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ReportError
from .interval import t_interval
from .points import Spread, spread
from .study import Study, gather


class Score(NamedTuple):
    """One exit of one study, beside the baseline's."""

    spread: Spread
    values: list[float]  # per seed
    gains: list[float]  # over the baseline, for each seed that both have
    interval: tuple[float, float] | None  # of the mean gain: 95 %, Student's t; None for one seed

    @property
    def gain(self) -> float | None:
        """Mean gain over the baseline; None where no seed is shared."""
        return sum(self.gains) / len(self.gains) if self.gains else None

    @property
    def better(self) -> int:
        """How many of the shared seeds gain."""
        return sum(gain > 0 for gain in self.gains)


class Scheme(NamedTuple):
    """One study."""

    name: str
    seeds: list[int]
    shared: list[int]  # seeds that the baseline has too
    exits: list[Score]  # [K]
    curves: dict[str, list[dict[str, Any]]]  # policy -> its points, plain


@dataclass(frozen=True)
class Comparison:
    """Studies of one task on the same data, each exit by itself."""

    measure: str  # "accuracy" or "mIoU"
    baseline: int  # number of the study that the others are held against
    schemes: list[Scheme]

    @property
    def num_exits(self) -> int:
        """Number of exits, K."""
        return len(self.schemes[0].exits)

    @property
    def others(self) -> list[tuple[int, Scheme]]:
        """All but the baseline, with their numbers."""
        return [(n, scheme) for n, scheme in enumerate(self.schemes) if n != self.baseline]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, fit for JSON; gains are shares, as the figures are."""
        return {
            "measure": self.measure,
            "baseline": self.schemes[self.baseline].name,
            "schemes": [
                {
                    "name": scheme.name,
                    "seeds": scheme.seeds,
                    "paired_seeds": scheme.shared,
                    "exits": [
                        _plain(k, score, n == self.baseline) for k, score in enumerate(scheme.exits)
                    ],
                    "curves": scheme.curves,
                }
                for n, scheme in enumerate(self.schemes)
            ],
        }


def compare(
    runs: Sequence[str | Path | Mapping[str, Any]],
    *,
    labels: Sequence[str | None] | None = None,
    baseline: str | None = None,
) -> Comparison:
    """The figures of studies side by side, as `write` shows them on its page.

    Args:
        runs: as `write` takes them.
        labels: a name for each of the runs, None where it names itself.
        baseline: name of the study that the others are held against; by default the first.

    Raises:
        ReportError: as `write` does.

    Example:
        >>> compared = compare(["runs/joint", "runs/overlap"], labels=["joint", "overlap 3"])
        >>> compared.schemes[1].exits[0].interval
        (0.004, 0.021)
    """
    from .schema import read_runs  # pydantic is slow to import

    return side_by_side(gather(read_runs(runs, labels)), baseline)


def side_by_side(studies: Sequence[Study], baseline: str | None = None) -> Comparison:
    """Compare studies that are gathered already.

    Raises:
        ReportError: if no study has the baseline's name.
    """
    number = _find(studies, baseline)
    base = studies[number]
    return Comparison(base.measure, number, [_scheme(study, base) for study in studies])


def _find(studies: Sequence[Study], baseline: str | None) -> int:
    names = [study.name for study in studies]
    if baseline is None:
        return 0
    if baseline not in names:
        valid = "; ".join(names)
        raise ReportError(f"wanted the baseline as the name of a study, {valid}; got {baseline!r}")
    return names.index(baseline)


def _scheme(study: Study, base: Study) -> Scheme:
    shared = [seed for seed in study.seeds if seed in base.seeds]
    return Scheme(
        study.name,
        study.seeds,
        shared,
        [_score(study, base, shared, k) for k in range(study.num_exits)],
        {curve.policy: [_point(point) for point in curve.points] for curve in study.curves},
    )


def _score(study: Study, base: Study, shared: Sequence[int], k: int) -> Score:
    own, others = (
        {seed: scores[k] for seed, scores in zip(each.seeds, each.scores, strict=True)}
        for each in (study, base)
    )
    gains = [own[seed] - others[seed] for seed in shared]
    values = list(own.values())
    return Score(spread(values), values, gains, t_interval(gains))


def _plain(k: int, score: Score, is_baseline: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "exit": k,
        "mean": score.spread.mean,
        "low": score.spread.low,
        "high": score.spread.high,
        "values": score.values,
    }
    if is_baseline:
        return told
    interval = None if score.interval is None else list(score.interval)
    gain = {"mean": score.gain, "interval": interval, "values": score.gains}
    return {**told, "gain": {**gain, "better": score.better}}


def _point(point: Any) -> dict[str, Any]:
    miou = {} if point.miou is None else {"miou": point.miou.mean}
    return {
        "budget": point.budget,
        "cost": point.cost.mean,
        "accuracy": point.accuracy.mean,
        **miou,
        "seeds": list(point.seeds),
    }
