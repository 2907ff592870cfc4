"""What every objective does: turn the outputs of all exits into named terms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ValidationError
from ..registry import objectives
from ..types import Batch, Costs, ExitOutput, Gains, Term

T = TypeVar("T")
# a value; the values from some progress of training on, {0: ..., 0.75: ...}; or a function of the
# number of exits and the progress
Scheduled = T | Mapping[float, T] | Callable[[int, float], T]
Weights = Scheduled[Literal["uniform", "linear"] | Sequence[float]]

CHECKED = [step / 100 for step in range(100)]  # where `Objective.check` looks at schedules

register = objectives.register


class Objective(nn.Module, ABC):
    """What training minimises: terms, each of which says from which segment on it moves weights.

    An objective never sees the model, so it can be tested from bare tensors. One that is resumed
    after a crash goes on from its ``state_dict``: what it gathers belongs into buffers.
    """

    @abstractmethod
    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """Terms whose sum is minimised.

        Args:
            outputs: K exits.
            batch: the batch that gave them; its target is [N, *S], negative where it does not
                count. A process that no row of a batch falls to is given others, none of which
                count.
            costs: cost of each exit.
        """

    def check(self, costs: Costs) -> None:
        """Refuse exits that this cannot teach, by their number or their costs.

        Training asks the objectives of all phases, and those inside of others, before the first
        step, as the last phase begins when most of the work is done. By default none is refused.

        Args:
            costs: cost of each exit.
        """

    def gains(self, num_exits: int, progress: float) -> Gains | None:
        """Factors of the gradients that pass from heads and segments down; None leaves them.

        An objective around another one hands on what that says.
        """
        return None

    def refresh(
        self, answers: Iterable[tuple[Sequence[ExitOutput], Batch]], costs: Costs, rows: int
    ) -> None:
        """Look at all training rows before an epoch; by default nothing is looked at.

        Where a class overrides this, training calls it at the start of every epoch of a phase but
        the first. An objective around another one hands this on, and `refreshes` with it.

        Args:
            answers: all exits' outputs for the training rows in order, and the rows, a batch at a
                time; in eval mode, without gradients, and without what training adds to the rows:
                augmentation and mixing. They are made as they are asked for. Of several processes
                each is given its share, which may be of no batch at all, so nothing that asks the
                others (`offramp.together`) belongs in between.
            costs: cost of each exit.
            rows: number of rows of the data set; those of all processes together.
        """

    @property
    def refreshes(self) -> bool:
        """Whether `refresh` does anything."""
        return type(self).refresh is not Objective.refresh


class ExitLosses(Objective):
    """Cross-entropy of every exit, each weighted, and each for the segments that ``since`` says.

    Args:
        weights: ``uniform`` gives every exit 1 (MSDNet); ``linear`` gives exit k of K, counted from
            1, k / (K (K + 1)), which sums to 1/2 (EENet); K numbers; or a schedule of these, see
            `scheduled`.
        ignore_index: target that does not count, beside the negative ones.
        label_smoothing: share of each target that is spread evenly over all classes, in [0, 1)
            (Szegedy et al. 2016).

    Raises:
        ValidationError: if the weights are unknown, negative or not K, or the smoothing is no such
            share.
    """

    def __init__(
        self,
        weights: Weights = "uniform",
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        for given in scheduled("weights", weights):
            if isinstance(given, str) and given not in ("uniform", "linear"):
                raise ValidationError(
                    f"wanted weights 'uniform', 'linear', numbers or a schedule, got {given!r}"
                )
        check_smoothing(label_smoothing)
        self.weights: Weights = weights  # type: ignore[assignment]
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    @abstractmethod
    def since(self, num_exits: int, progress: float) -> Sequence[int]:
        """For each exit, the first segment whose weights its loss may move, K numbers."""

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """One term per exit, ``ce/0`` to ``ce/K-1``.

        Raises:
            ValidationError: if weights or ``since`` are not one per exit, or a target on the CPU is
                no class; on a GPU looking would stall it.
        """
        target = counted(batch.target, outputs[0].logits.shape[1], self.ignore_index)
        weights, since = self._plan(len(outputs), batch.progress)
        smooth = self.label_smoothing
        losses = [cross_entropy(out.logits, target, label_smoothing=smooth) for out in outputs]
        return [
            Term(f"ce/{k}", weight * loss, first)
            for k, (loss, weight, first) in enumerate(zip(losses, weights, since, strict=True))
        ]

    def check(self, costs: Costs) -> None:
        """Weights and ``since`` are looked at all over the training, as they may change.

        Raises:
            ValidationError: if they are not one per exit.
        """
        for progress in CHECKED:
            self._plan(costs.num_exits, progress)

    def _plan(self, num_exits: int, progress: float) -> tuple[list[float], Sequence[int]]:
        weights = exit_weights(self.weights, num_exits, progress)
        since = self.since(num_exits, progress)
        if len(since) != num_exits:
            raise ValidationError(f"wanted since of {num_exits} exits, got {since!r}")
        return weights, since


def exit_weights(weights: Weights, num_exits: int, progress: float) -> list[float]:
    """The weight of each exit's loss, K numbers."""
    given = at(weights, num_exits, progress)
    if given == "uniform":
        return [1.0] * num_exits
    if given == "linear":
        return [k / (num_exits * (num_exits + 1)) for k in range(1, num_exits + 1)]
    try:
        values = [float(weight) for weight in given]
    except (TypeError, ValueError):
        values = []
    if len(values) != num_exits or not all(0 <= value < math.inf for value in values):
        raise ValidationError(
            f"wanted {num_exits} non-negative weights, one per exit, got {given!r}"
        )
    return values


def scheduled(name: str, value: Scheduled[T]) -> list[T]:
    """The values that an option takes on, for checks; none of a function, which tells none.

    An option that may change over training is a value; a mapping from progress in [0, 1] to the
    value from there on, such as ``{0: 5, 0.5: 2}``, which begins at 0 and fits into a recipe; or a
    function of the number of exits and the progress.

    Args:
        name: of the option.
        value: the option as given.

    Raises:
        ValidationError: if a mapping does not begin at 0, or a key is no progress.
    """
    if callable(value):
        return []
    if not isinstance(value, Mapping):
        return [cast(T, value)]
    starts = [_progress(start) for start in value]
    if None in starts or 0 not in starts or len(set(starts)) < len(starts):
        raise ValidationError(
            f"wanted {name} from some progress on, in [0, 1] and the first of them 0, such as "
            f"{{0: ..., 0.5: ...}}; got {[*value]}"
        )
    return [*value.values()]


def at(value: Scheduled[T], num_exits: int, progress: float) -> T:
    """What an option that `scheduled` has looked at is at some progress."""
    if callable(value):
        return cast(T, value(num_exits, progress))
    if not isinstance(value, Mapping):
        return cast(T, value)
    begun = [start for start in value if float(start) <= progress]
    return cast(T, value[max(begun, key=float)])


def _progress(start: object) -> float | None:
    """A key as a number in [0, 1], also where a file has it as text; None if it is none."""
    try:
        number = float(cast(Any, start))
    except (TypeError, ValueError):
        return None
    return number if 0 <= number <= 1 and not isinstance(start, bool) else None


def check_smoothing(label_smoothing: Any) -> None:
    """Check that this is a share of a target.

    Raises:
        ValidationError: if it is not.
    """
    number = isinstance(label_smoothing, int | float) and not isinstance(label_smoothing, bool)
    if not (number and 0 <= label_smoothing < 1):
        raise ValidationError(f"wanted label_smoothing in [0, 1), got {label_smoothing!r}")


def counted(target: Tensor, num_classes: int, ignore_index: int = -100) -> Tensor:
    """The target with -100 wherever it does not count, [N, *S] int64.

    Args:
        target: [N, *S]; negative ones do not count.
        num_classes: C.
        ignore_index: another target that does not count.

    Raises:
        ValidationError: if targets are no whole numbers, or one on the CPU is no class; on a GPU
            looking would stall it.
    """
    if target.is_floating_point():
        raise ValidationError(f"wanted targets that are numbers of classes, got {target.dtype}")
    target = target.long()
    target = target.masked_fill((target < 0) | (target == ignore_index), -100)
    if target.device.type == "cpu" and bool((target >= num_classes).any()):
        raise ValidationError(f"wanted targets below C={num_classes}, got {int(target.max())}")
    return target


def counting(target: Tensor) -> Tensor:
    """Which inputs have a target that counts, as `counted` gives them, [N, *S] -> [N] bool."""
    return (target >= 0)[..., None].flatten(1).any(1)


def cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the targets that count, []; 0 where none does.

    Args:
        logits: [N, C, *T]; maps are brought to the targets' resolution, bilinearly.
        target: [N, *S] int64, with -100 wherever it does not count, as `counted` gives it.
        label_smoothing: share of the target that is spread evenly over all classes.
    """
    total = F.cross_entropy(
        resized(logits, target),
        target,
        ignore_index=-100,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    # not the mean of cross_entropy, which is NaN for a batch where every target is ignored
    return total / (target >= 0).sum().clamp_min(1)


def resized(logits: Tensor, target: Tensor) -> Tensor:
    """Logits at the targets' resolution, bilinearly, [N, C, *T], [N, *S] -> [N, C, *S]."""
    if logits.shape[2:] == target.shape[1:]:
        return logits
    return F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)


def wrapped(objective: object, ignore_index: int = -100, label_smoothing: float = 0.0) -> Objective:
    """The objective that another one goes around, made where it is only named.

    Args:
        objective: a name, ``{"name": ..., **options}``, or an objective.
        ignore_index: handed to an objective given by name.
        label_smoothing: likewise.

    Raises:
        ValidationError: if it is none of these, or is made already and told one of the others.
        UnknownNameError: if there is no objective of that name.
        OptionError: if that objective does not take an option.
    """
    handed: dict[str, Any] = {"ignore_index": ignore_index} if ignore_index != -100 else {}
    handed |= {"label_smoothing": label_smoothing} if label_smoothing else {}
    if isinstance(objective, Objective):
        if handed:
            raise ValidationError(
                f"wanted {' and '.join(handed)} given to the objective itself, got {handed} beside "
                f"a {type(objective).__name__} that is made already"
            )
        return objective
    named = {"name": objective} if isinstance(objective, str) else objective
    if not isinstance(named, Mapping) or not isinstance(named.get("name"), str):
        raise ValidationError(
            "wanted an objective as a name, a mapping with a 'name' and options, or an Objective; "
            f"got {objective!r}"
        )
    options = {**handed, **named}
    return objectives.create(options.pop("name"), **options)
