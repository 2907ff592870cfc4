"""The phases of a training, each with everything that it needs, made and checked at the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from ..data.augment import check_augment
from ..data.batches import Data, Source, open_data
from ..errors import DataError, OptionError, ValidationError
from ..model import MultiExitModel
from ..objectives.base import Objective
from ..types import Costs
from .mixing import Mixing
from .options import (
    Augment,
    MakeOptimizer,
    Options,
    check_options,
    find_objective,
    find_optimizer,
)
from .parts import check_parts, parameters, trainable
from .schedules import Schedule, find

OPTIONS = tuple(field.name for field in fields(Options))
KEYS = (*OPTIONS, "objective", "augment")  # of a phase


class Common(NamedTuple):
    """What holds in every phase that does not say otherwise."""

    options: Options
    objective: str | Objective
    augment: Augment | None


class Phase(NamedTuple):
    """One phase, ready to run."""

    options: Options
    objective: Objective
    augment: Augment | None
    source: Source
    schedule: Schedule
    make: MakeOptimizer
    every_row: Source | None = None  # for an objective that is refreshed from them

    @property
    def batches(self) -> int:
        """Batches of one epoch."""
        return self.source.steps or 0

    @property
    def steps(self) -> int:
        """Steps of one epoch: several batches may be one step."""
        return -(-self.batches // self.options.accumulate)

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        return self.options.epochs or 0

    @property
    def total(self) -> int:
        """Steps of the phase."""
        return self.epochs * self.steps

    @property
    def ignored(self) -> int | None:
        """The target that the objective leaves out, beside the negative ones."""
        return getattr(self.objective, "ignore_index", None)


def plan(
    model: MultiExitModel,
    data: Data,
    common: Common,
    phases: Sequence[Mapping[str, Any]] = (),
    *,
    workers: int = 0,
) -> list[Phase]:
    """Every phase, in the order in which they run; without ``phases`` there is one.

    Raises:
        OptionError: if a phase has a key that is no option.
        ValidationError: if an option is wrong.
        DataError: if the data are of no kind that it takes, or of unknown length, or their rows
            have no numbers and an objective needs them.
    """
    if isinstance(phases, str | Mapping) or not isinstance(phases, Sequence):
        raise ValidationError(
            f"wanted phases as a sequence of mappings, got {type(phases).__name__}"
        )
    planned = []
    for number, overrides in enumerate(phases or ({},)):
        own = _merge(common, overrides, number)
        planned.append(_make(model, data, own, workers))
    return planned


def describe(phase: Phase) -> dict[str, Any]:
    """What a phase is, as plain values: two that differ train differently."""
    options = {key: _plain(getattr(phase.options, key)) for key in OPTIONS}
    state = phase.objective.state_dict()
    return {
        **options,
        "objective": {
            name or "self": {"is": type(part).__qualname__, **_settings(part)}
            for name, part in phase.objective.named_modules()
            if isinstance(part, Objective)
        },
        "objective_state": {name: list(tensor.shape) for name, tensor in state.items()},
        "augment": _plain(phase.augment),
        "rows": phase.source.rows,
        "batches": phase.batches,
    }


def check_costs(phases: Sequence[Phase], costs: Costs) -> None:
    """Ask every objective, those inside of others too, whether it can teach exits of these costs.

    Raises:
        OfframpError: what an objective raises that cannot.
    """
    for phase in phases:
        for part in phase.objective.modules():
            if isinstance(part, Objective):
                part.check(costs)


def check_augments(phases: Sequence[Phase]) -> None:
    """Check that maps of targets are moved with their images, where that can be seen.

    It reads a row, so random states should be kept around it.

    Raises:
        ValidationError: if a phase's augmentation leaves them where they are.
    """
    for phase in phases:
        if phase.augment is not None and phase.source.first is not None:
            check_augment(phase.augment, phase.source.first().target)


def check_mixing(phases: Sequence[Phase]) -> None:
    """Check that the data can be mixed in those phases that mix, where that can be seen.

    It reads a row, so random states should be kept around it.

    Raises:
        ValidationError: if they cannot.
    """
    for phase in phases:
        mixing = Mixing(phase.options.mixup, phase.options.cutmix)
        if mixing and phase.source.first is not None:
            rows = phase.source.first()
            mixing.check(rows.inputs, rows.target)


def _merge(common: Common, overrides: Any, number: int) -> Common:
    if not isinstance(overrides, Mapping):
        raise ValidationError(
            f"wanted phase {number} as a mapping of options, got {type(overrides).__name__}"
        )
    unknown = [key for key in overrides if key not in KEYS]
    if unknown:
        raise OptionError(
            f"phase {number} has no option {unknown[0]!r}; valid: {', '.join(sorted(KEYS))}"
        )
    own = {key: value for key, value in overrides.items() if key not in ("objective", "augment")}
    return Common(
        replace(common.options, **own),
        overrides.get("objective", common.objective),
        overrides.get("augment", common.augment),
    )


def _make(model: MultiExitModel, data: Data, own: Common, workers: int) -> Phase:
    options = own.options
    check_options(options)
    check_parts(model, options.train)
    objective = find_objective(own.objective, options.label_smoothing)
    make = find_optimizer(options)
    schedule = find(options.schedule, milestones=options.milestones, gamma=options.gamma)
    if own.augment is not None and not callable(own.augment):
        raise ValidationError(
            f"wanted augment as a function of inputs and generator, got {own.augment!r}"
        )
    source = open_data(data, options.batch_size, keep_single=False, workers=workers)
    if source.steps is None:
        raise DataError("wanted data of known length, got a DataLoader that does not know its own")
    learning = [p for p in parameters(objective.modules()) if p.requires_grad]
    if not learning and not trainable(model, options.train):
        raise ValidationError(
            "wanted at least one parameter to train, but requires_grad is False for all of them"
        )
    every_row = _every_row(data, objective, options, workers)
    return Phase(options, objective, own.augment, source, schedule, make, every_row)


def _every_row(data: Data, objective: Objective, options: Options, workers: int) -> Source | None:
    """All rows in order, also a single last one, where the objective wants to see them."""
    if not objective.refreshes:
        return None
    if isinstance(data, DataLoader):
        raise DataError(
            f"wanted data whose rows have numbers for {type(objective).__name__}, which is "
            "refreshed from all of them: tensors or a Dataset; got a DataLoader: give its Dataset "
            "itself, with batch_size, workers and augment"
        )
    return open_data(data, options.batch_size, workers=workers)


def _settings(objective: Objective) -> dict[str, Any]:
    """An objective's plain attributes; what it gathers while it trains is none of them."""
    plain = {name: value for name, value in vars(objective).items() if name[0] != "_"}
    return {
        name: _plain(value)
        for name, value in plain.items()
        if name != "training" and (_is_plain(value) or callable(value))
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """A value as JSON has it; of a function its name."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if _is_plain(value):
        return value
    thing = value if hasattr(value, "__qualname__") else type(value)
    return f"{thing.__module__}.{thing.__qualname__}"
