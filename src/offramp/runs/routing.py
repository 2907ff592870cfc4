"""Which exit trains which segment, over the whole of a training, told from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import OfframpError, ValidationError
from ..model import create_model
from ..objectives import Objective, create_objective
from ..registry import models
from ..train.routes import routes
from ..trees import State, tensors
from ..types import Gains

_FEW = 2  # classes, where the configuration does not say how many
_SAMPLES = 100  # steps of progress from 0 to 1


class Route(NamedTuple):
    """One term: the exits whose outputs it moves, and the first segment that it may move."""

    name: str
    exits: tuple[int, ...]
    since: int


@dataclass(frozen=True)
class Stretch:
    """A stretch of training over which the routes stay as they are."""

    phase: int
    start: float  # progress of the phase, in [0, 1], sampled in hundredths
    end: float
    objective: str  # in words
    table: list[list[bool]]  # [K][K]: does exit k (the row) train segment j (the column)
    terms: list[Route]  # those that move something
    gains: tuple[Gains | None, Gains | None]  # at the start and at the end of the stretch
    train: list[str | int]  # parts that are trained; ``["all"]`` where nothing is frozen

    @property
    def num_exits(self) -> int:
        """Number of exits, K."""
        return len(self.table)

    @property
    def since(self) -> list[list[int]]:
        """For each exit the different `since` of its terms, K lists."""
        found = [{t.since for t in self.terms if k in t.exits} for k in range(self.num_exits)]
        return [sorted(each) for each in found]

    @property
    def cost(self) -> float | None:
        """A training step over one of joint training, by count; None where parts are frozen."""
        joint = step_cost([0] * self.num_exits)
        return step_cost(self.since) / joint if self.train == ["all"] else None

    @property
    def routed(self) -> bool:
        """Whether anything differs from every exit training all segments up to its own."""
        full = [[j <= k for j in range(self.num_exits)] for k in range(self.num_exits)]
        return self.table != full or self.gains != (None, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, fit for JSON."""
        first, last = (
            None if g is None else {"heads": list(g.heads), "boundaries": list(g.boundaries)}
            for g in self.gains
        )
        return {
            "phase": self.phase,
            "progress": [self.start, self.end],
            "objective": self.objective,
            "train": self.train,
            "table": self.table,
            "since": self.since,
            "terms": [{**term._asdict(), "exits": list(term.exits)} for term in self.terms],
            "gains": first,
            **({"gains_at_end": last} if last != first else {}),
            "step_cost": self.cost,
        }


def count_exits(config: Config) -> int:
    """How many exits a configured model has; no data are read and no weights are fetched."""
    options = dict(config.model.options)
    for key in ("checkpoint", "weights"):
        options.pop(key, None)
    known = inspect.signature(models.get(config.model.name)).parameters
    if "pretrained" in known:
        if isinstance(options.get("at"), list):  # cutting a large network takes a minute
            return len(options["at"]) + 1
        options["pretrained"] = False
    if "num_classes" in known:
        options.setdefault("num_classes", _FEW)
    with torch.random.fork_rng(devices=[]):
        return create_model(config.model.name, **options).num_exits


def plan_routes(plain: Mapping[str, Any], num_exits: int) -> list[Stretch]:
    """The routes of every phase, one entry for each stretch over which they stay as they are.

    Args:
        plain: a configuration as it stands in a run's ``config.yaml``, defaults included.
        num_exits: K.

    Raises:
        ValidationError: if an objective cannot be asked, or does not fit the number of exits.
        UnknownNameError: if there is no objective of that name.
        OptionError: if an objective does not take an option.
    """
    train = plain["train"]
    num_classes = plain["model"].get("num_classes", _FEW)
    found: list[Stretch] = []
    for number, phase in enumerate(train.get("phases") or ({},)):
        named = phase.get("objective", plain["objective"])
        parts = phase.get("train", train.get("train", "all"))
        parts = parts if isinstance(parts, list) else [parts]
        asked = _ask(named, num_exits, num_classes)
        found += _stretches(asked, number, scheme_name(named), parts)
    return found


def step_cost(since: Sequence[int | Collection[int]]) -> int:
    """What a training step costs by count, over K segments of one size.

    A forward pass, an input gradient and a weight gradient of a segment count 1 each. A segment
    that some exit trains gets one backward pass, which gives both gradients, for the sum of all
    that reaches it; each further group of exits, those of another `since`, needs one more input
    gradient there. Heads, and the optimizer, are not counted.

    Args:
        since: for each exit, the first segment that its loss may move; or all of them, where its
            terms differ.

    Example:
        >>> step_cost([0] * 7), step_cost([0, 0, 0, 1, 2, 3, 4]), step_cost([0, 0, 0, 1, 2, 3, 0])
        (21, 29, 30)
    """
    total, num = 0, len(since)
    each = [{given} if isinstance(given, int) else set(given) for given in since]
    for segment in range(num):
        groups = {first for later in each[segment:] for first in later if first <= segment}
        total += 1 + (2 + len(groups) - 1 if groups else 0)
    return total


def scheme_name(objective: Mapping[str, Any]) -> str:
    """An objective in words.

    Example:
        >>> scheme_name({"name": "block_dependent", "overlap": 3, "final": True})
        'block_dependent, overlap 3, final'
    """
    inner = objective.get("objective")
    inside = f" ({scheme_name(inner)})" if isinstance(inner, Mapping) else ""
    rest = {k: v for k, v in objective.items() if k not in ("name", "objective")}
    if isinstance(inner, str):
        inside = f" ({inner})"
    return ", ".join([f"{objective['name']}{inside}", *(_option(k, v) for k, v in rest.items())])


# ------------------------------------------------------------------------ asking an objective
class _Asked(NamedTuple):
    """What an objective says at one moment."""

    progress: float
    table: list[list[bool]]
    terms: list[Route]
    gains: Gains | None


class _Teacher(nn.Module):
    """Stands in for a teacher, whose bundle need not be there: routes do not depend on answers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, inputs: State) -> Tensor:
        """Some logits, [N, C]."""
        source = torch.Generator().manual_seed(1)
        return torch.randn(len(tensors(inputs)[0]), self.num_classes, generator=source)


def _untaught(named: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """The objective with a stand-in for its teacher, and for one of an objective inside it."""
    options = dict(named)
    if isinstance(options.get("objective"), Mapping):
        options["objective"] = _untaught(options["objective"], num_classes)
    if options.get("teacher") is not None:
        options["teacher"] = _Teacher(num_classes)
    return options


def _ask(named: Mapping[str, Any], num_exits: int, num_classes: int) -> list[_Asked]:
    """What an objective says all the way through training."""
    objective = create_objective(**_untaught(named, num_classes))
    try:
        return [
            _at(objective, num_exits, num_classes, step / _SAMPLES) for step in range(_SAMPLES + 1)
        ]
    except OfframpError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValidationError(
            f"the objective {scheme_name(named)!r} cannot be asked for its routes: {error}"
        ) from None


def _at(objective: Objective, num_exits: int, num_classes: int, progress: float) -> _Asked:
    said = routes(objective, num_exits, num_classes=num_classes, progress=progress)
    pairs = zip(said.terms, said.exits, strict=True)
    found = [Route(term.name, tuple(exits), term.since) for term, exits in pairs if exits]
    return _Asked(progress, said.table.tolist(), found, said.gains)


def _stretches(
    asked: Sequence[_Asked], phase: int, objective: str, train: list[str | int]
) -> Iterator[Stretch]:
    for (table, terms), same in groupby(asked, key=lambda one: (one.table, one.terms)):
        first, *rest = same
        last = rest[-1] if rest else first
        yield Stretch(
            phase=phase,
            start=first.progress,
            end=last.progress,
            objective=objective,
            table=[
                [t and ("all" in train or j in train) for j, t in enumerate(row)] for row in table
            ],
            terms=terms,
            gains=(first.gains, last.gains),
            train=train,
        )


def _option(key: str, value: Any) -> str:
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if key == "teacher" and isinstance(value, str):
        return f"{words} {Path(value).name}"
    return f"{words} {value}"
