"""What `sweep.json` beside the results of a run must hold: gates trained for many alphas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SWEEP = "sweep.json"

Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]


class _Part(BaseModel):
    """Keys beyond those named here are left alone, so that the format can grow."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Outcome(_Part):
    """What gates make of one part of the data, everyone leaving where they say so."""

    accuracy: Share
    cost: Annotated[float, Field(gt=0, lt=1e6)]  # mean, relative to the full network
    mean_exit: Annotated[float, Field(ge=0)]  # exits count from 0
    rates: list[Share]  # [K]


class Step(_Part):
    """Gates trained for one weight of cost against accuracy."""

    alpha: Share
    calibration: Outcome
    test: Outcome | None = None


class Sweep(_Part):
    """All of them, and how long they took."""

    format: Literal["offramp-sweep"]
    version: Literal[1]
    unit: Literal["macs", "params", "latency_ms"]
    alphas: list[Share]
    points: Annotated[list[Step], Field(min_length=1)]
    seconds: Annotated[float, Field(ge=0)]  # wall time of the sweep


def sweep_misfits(sweep: Sweep, num_exits: int) -> Iterator[str]:
    """Parts that are right by themselves and do not fit together, or not to the run's results."""
    found = [step.alpha for step in sweep.points]
    if found != sweep.alphas:
        yield f"points: wanted one for each of the alphas, in order, got those of {found!r:.60}"
    if len(set(found)) < len(found):
        yield f"alphas: wanted every alpha once, got {found!r:.60}"
    for number, step in enumerate(sweep.points):
        for part, outcome in (("calibration", step.calibration), ("test", step.test)):
            key = f"points.{number}.{part}"
            if outcome is None:
                continue
            if len(outcome.rates) != num_exits:
                yield (
                    f"{key}.rates: wanted {num_exits} entries, as num_exits of the results; got "
                    f"{len(outcome.rates)}"
                )
            elif abs(sum(outcome.rates) - 1) > 1e-3:
                yield f"{key}.rates: wanted rates that sum to 1, got {sum(outcome.rates):g}"
            if outcome.mean_exit > num_exits - 1 + 1e-6:
                yield f"{key}.mean_exit: wanted at most {num_exits - 1}, got {outcome.mean_exit:g}"
