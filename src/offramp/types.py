"""The words of offramp as plain data: exit outputs, batches, costs, budgets and records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .errors import BudgetError, RecordsError, ValidationError
from .trees import State as State
from .trees import take

Carry = dict[
    str, Tensor
]  # batch-first tensors a policy hands from exit to exit; empty before exit 0

UNITS = ("macs", "params", "latency_ms")


class ExitOutput(NamedTuple):
    """What one exit says about a batch."""

    logits: Tensor  # [N, C, *S]; S is () for a label, (H, W) for a map
    gate: Tensor | None = None  # [N], logit of "leave here"


class Batch(NamedTuple):
    """What a training step is given."""

    inputs: State
    target: Tensor  # [N, *S]
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  # [N], row of the data set
    progress: float  # 0 at the start of the phase, 1 at its end
    share: float = 1.0  # of its terms in the loss, where inputs are mixed with others' targets


class Term(NamedTuple):
    """A named scalar to minimise, and from which segment on it may move weights."""

    name: str
    value: Tensor  # []
    since: int = 0  # first segment whose weights it may move; heads always learn their own term


class Gains(NamedTuple):
    """Factors of gradients on their way down; weights above a factor do not feel it."""

    heads: Sequence[float]  # K, of what head k sends into segment k
    boundaries: Sequence[float]  # K-1, of what segment k+1 sends into segment k


class Prediction(NamedTuple):
    """An answer for every input, and the exit that gave it."""

    logits: Tensor  # [N, C, *S]
    exits: Tensor  # [N]


class Shard(NamedTuple):
    """Some consecutive rows of records."""

    outputs: list[ExitOutput]  # K, each with logits [n, C, *S]
    targets: Tensor  # [n, *S]

    @property
    def num_rows(self) -> int:
        """Number of rows, n."""
        return len(self.targets)


@dataclass(frozen=True)
class Costs:
    """What it takes to HAVE the answer of each exit: segments 0..k and every head on the way.

    ``full`` holds the same figures for the original network, without early heads; relative costs
    are measured against it, so the last exit may cost a little more than 1.
    """

    macs: Tensor  # [K], multiply-accumulates for one input; 1 MAC = 2 FLOPs
    params: Tensor | None = None  # [K]
    latency_ms: Tensor | None = None  # [K], median milliseconds for a batch of ``batch_size``
    full: Mapping[str, float] = field(default_factory=dict)
    spread_ms: Tensor | None = None  # [K], interquartile range of the same timings
    batch_size: int | None = None

    @classmethod
    def from_relative(cls, values: Sequence[float] | Tensor) -> Costs:
        """Costs known only as shares of the original network, in the unit ``macs``.

        Example:
            >>> Costs.from_relative([0.3, 0.6, 1.02]).relative().tolist()
            [0.3, 0.6, 1.02]
        """
        macs = torch.as_tensor(values, dtype=torch.float64)
        if macs.dim() != 1 or not len(macs) or not bool((macs > 0).all()):
            raise ValidationError(f"wanted one positive cost per exit, got {values}")
        if bool((macs.diff() < 0).any()):
            raise ValidationError(
                f"wanted costs that do not decrease from exit to exit, got {macs.tolist()}"
            )
        return cls(macs=macs, full={"macs": 1.0})

    @property
    def num_exits(self) -> int:
        """Number of exits, K."""
        return len(self.macs)

    def relative(self, unit: str = "macs") -> Tensor:
        """Cost of each exit over the original network's, [K] float64, non-decreasing.

        Raises:
            ValidationError: if the unit is unknown or was not measured.
        """
        values = getattr(self, unit, None) if unit in UNITS else None
        if values is None or unit not in self.full:
            known = [u for u in UNITS if getattr(self, u) is not None and u in self.full]
            raise ValidationError(f"these costs know the units {known}, got {unit!r}")
        return (cast(Tensor, values).double() / self.full[unit]).cummax(0).values

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, fit for JSON."""
        plain = {f: getattr(self, f) for f in ("macs", "params", "latency_ms", "spread_ms")}
        lists = {name: None if value is None else value.tolist() for name, value in plain.items()}
        return {**lists, "full": dict(self.full), "batch_size": self.batch_size}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Costs:
        """The inverse of `to_dict`."""
        names = ("macs", "params", "latency_ms", "spread_ms")
        values = {
            n: None if plain.get(n) is None else torch.tensor(plain[n], dtype=torch.float64)
            for n in names
        }
        return cls(
            **cast(Any, values), full=dict(plain["full"]), batch_size=plain.get("batch_size")
        )


@dataclass(frozen=True)
class Budget:
    """An upper bound of the mean cost per input, absolute or relative to the original network.

    A bare number, wherever a budget is wanted, means ``Budget(number, "macs", relative=True)``.

    An absolute budget is on the scale of `Costs`: multiply-accumulates for one input in ``macs``,
    but in ``latency_ms`` milliseconds for a batch of ``Costs.batch_size`` inputs, as they were
    measured. There every input counts with the time that its exit takes for a whole batch, so
    ``Budget(20, "latency_ms")`` of costs measured on batches of 8 is 2.5 ms per input.
    """

    value: float
    unit: str = "macs"
    relative: bool = False

    @classmethod
    def of(cls, budget: float | Budget) -> Budget:
        """A budget from a number or a budget.

        Raises:
            BudgetError: if it is no finite number.
        """
        value = budget.value if isinstance(budget, Budget) else budget
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise BudgetError(f"wanted a budget as a finite number or a Budget, got {budget!r}")
        return budget if isinstance(budget, Budget) else cls(float(value), relative=True)

    def resolve(self, costs: Costs) -> tuple[Tensor, float]:
        """Relative costs [K] in this budget's unit, and the budget on the same scale."""
        relative = costs.relative(self.unit)
        return relative, self.value if self.relative else self.value / costs.full[self.unit]


class Records:
    """Every exit's output over a data set, and the targets: all that fitting and evaluation need.

    Records are a sequence of shards, in memory or memory-mapped from files, so they may be larger
    than memory; iterate to get them one `Shard` at a time.

    Args:
        shards: at least one. A sequence that reads its shards lazily has an attribute ``lengths``,
            the rows of each, so that counting rows reads none; of its shards only the first is
            checked here.

    Raises:
        RecordsError: if there is no shard, or the parts do not fit together.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not len(shards):
            raise RecordsError("wanted at least one shard of records, got none")
        first = shards[0]
        self.shards = shards
        self.lengths: list[int] = list(getattr(shards, "lengths", None) or map(_length, shards))
        for shard in [first] if hasattr(shards, "lengths") else shards:
            _check(shard)
            _check_alike(first, shard)
        self.num_exits = len(first.outputs)  # K
        self.num_classes = first.outputs[0].logits.shape[1]  # C

    @classmethod
    def from_arrays(
        cls, logits: Any, targets: Any, gates: Any = None, *, ignore_index: int = -100
    ) -> Records:
        """Make records from arrays; they lie in memory, on the CPU.

        Args:
            logits: [K, N, C, *S], or K arrays [N, C, *S_k] where maps differ in resolution.
            targets: [N, *S], class numbers; negative ones do not count.
            gates: [K, N], or K entries that are [N] or None.
            ignore_index: another target that does not count, such as 255; it becomes -100 in the
                records.

        Raises:
            RecordsError: if the parts do not fit together.

        Example:
            >>> records = Records.from_arrays(torch.randn(3, 100, 10), torch.randint(10, (100,)))
            >>> len(records), records.num_exits, records.num_classes
            (100, 3, 10)
        """
        per_exit = [torch.as_tensor(z).float().cpu() for z in logits]
        per_gate = [None] * len(per_exit) if gates is None else [_maybe(g) for g in gates]
        if len(per_gate) != len(per_exit):
            raise RecordsError(f"wanted gates for {len(per_exit)} exits, got {len(per_gate)}")
        outputs = [ExitOutput(z, g) for z, g in zip(per_exit, per_gate, strict=True)]
        wanted = class_numbers(torch.as_tensor(targets).cpu())
        return cls([Shard(outputs, wanted.masked_fill(wanted == ignore_index, -100))])

    def __len__(self) -> int:
        return sum(self.lengths)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self.shards)

    @property
    def targets(self) -> Tensor:
        """All targets, [N, *S]."""
        return torch.cat([shard.targets for shard in self])

    @property
    def logits(self) -> list[Tensor]:
        """All logits, K tensors [N, C, *S_k], in memory."""
        parts = [[out.logits for out in shard.outputs] for shard in self]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def take(self, rows: Tensor | Sequence[int]) -> Records:
        """Keep some rows, in memory and in the order of these records.

        Args:
            rows: row numbers [n] or a mask [N]; a row named twice is there once.

        Raises:
            RecordsError: if a row is out of range or none is left.
        """
        parts = self._mask(torch.as_tensor(rows)).split(self.lengths)
        kept = [i for i, part in enumerate(parts) if bool(part.any())]
        return Records([_rows(self.shards[i], parts[i]) for i in kept])

    def _mask(self, rows: Tensor) -> Tensor:
        num = len(self)
        if rows.dtype == torch.bool:
            keep = rows
        else:
            keep = torch.zeros(num, dtype=torch.bool)
            if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < num):
                came = f"{int(rows.min())}..{int(rows.max())}"
                raise RecordsError(f"wanted rows in 0..{num - 1}, got {came}")
            keep[rows.long()] = True
        if keep.shape != (num,) or not bool(keep.any()):
            raise RecordsError(
                f"wanted at least one row, or a mask [{num}] that keeps some; "
                f"got {tuple(rows.shape)} that keeps {int(keep.sum())}"
            )
        return keep


def class_numbers(targets: Tensor) -> Tensor:
    """Give targets as int64, whatever integer they were.

    Raises:
        RecordsError: if they are no integers.
    """
    if targets.is_floating_point() or targets.is_complex():
        raise RecordsError(f"wanted targets as class numbers, got {targets.dtype}")
    return targets.long()


def _rows(shard: Shard, keep: Tensor) -> Shard:
    return Shard([take(out, keep) for out in shard.outputs], shard.targets[keep])


def _length(shard: Shard) -> int:
    return shard.num_rows


def _maybe(array: Any) -> Tensor | None:
    return None if array is None else torch.as_tensor(array).float().cpu()


def _check(shard: Shard) -> None:
    num, classes = len(shard.targets), None
    if not shard.outputs or not num:
        raise RecordsError(
            f"wanted at least one exit and one row, got {len(shard.outputs)} exits and {num} rows"
        )
    class_numbers(shard.targets)
    for k, out in enumerate(shard.outputs):
        shape = tuple(out.logits.shape)
        classes = shape[1] if classes is None and len(shape) > 1 else classes
        if len(shape) != shard.targets.dim() + 1 or shape[:2] != (num, classes):
            raise RecordsError(
                f"wanted logits [N={num}, C={classes}, *S] for targets "
                f"{tuple(shard.targets.shape)}, got {shape} at exit {k}"
            )
        if out.gate is not None and tuple(out.gate.shape) != (num,):
            raise RecordsError(f"wanted a gate [N={num}] at exit {k}, got {tuple(out.gate.shape)}")
    if int(shard.targets.max()) >= cast(int, classes):
        raise RecordsError(f"wanted targets below C={classes}, got {int(shard.targets.max())}")


def _check_alike(first: Shard, other: Shard) -> None:
    """Shapes per row, and which exits have a gate, must be those of the first shard."""
    wanted, came = (
        [(tuple(out.logits.shape[1:]), out.gate is not None) for out in shard.outputs]
        + [(tuple(shard.targets.shape[1:]), False)]
        for shard in (first, other)
    )
    if wanted != came:
        raise RecordsError(f"wanted shards alike, of shapes (and gates) {wanted}, got {came}")
