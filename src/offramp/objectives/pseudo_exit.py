"""Every input is told at which exit to leave, and its gates learn that (Demir and Akbas).

The public code of EENets (eksuas/eenets.pytorch), "v4". Each training row has a tag e, an exit:
random at first, and after every epoch that of the smallest NLL(p_i) + lambda c_i. The loss is

    NLL(p_e) + lambda * mean c_e + sum over i of BCE(h_i, [e = i]),

where the cross-entropy of gate i is weighted: what is to leave there by the fraction of the batch
that is not, and what is not by the fraction that is. (The middle summand only tells the cost.)

Differs: tags belong to rows; in the public code they belong to places in the batch, so that after
shuffling they are other rows' tags. They are found in eval mode without augmentation, where there
it is training mode. The last exit has no gate, so nothing is learned there. Costs hold all heads on
the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sinh
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ValidationError
from ..mixture import stack_gates, suffix_costs
from ..together import of_all, summed, total
from ..types import Batch, Costs, ExitOutput, Term
from .base import Scheduled, counting, register
from .gated import GatedObjective, exit_losses


@register("pseudo_exit")
class PseudoExit(GatedObjective):
    """Each input's loss at the exit that was best for it, and what its gates should have said.

    Training renews the tags at the start of every epoch but the first, from one more pass over all
    rows, so data whose rows have numbers are needed: tensors or a Dataset, no DataLoader. Tags are
    part of the ``state_dict``, whatever their number; an objective belongs to one data set.

    With ``target_cost`` two things differ, as lambda reaches gates through the tags alone, and
    these weights let a gate open more often than tags say, or never shut where no tag is its own.
    Lambda of the tags is the least at which their mean cost is at most the target, found by
    bisection; where it is less, rows whose losses tie all went to the earlier exit. And
    ``cost`` is the expected cost by the gates, with a gradient, times the lambda that
    `offramp.objectives.pressure.CostPressure` finds, which also holds the gates at the target.

    Fractions and means are those of the inputs of the whole batch that have a target that counts,
    over all processes.

    Args:
        weight, target_cost, unit, ignore_index, label_smoothing: see
            `offramp.objectives.gated.GatedObjective`. A weight acts once an epoch, through the
            tags, which are found without smoothing.
        seed: of the tags in the first epoch.

    Raises:
        ValidationError: if an option is out of range, or ``weight`` and ``target_cost`` are both
            given.

    Example:
        >>> objective = PseudoExit(weight=0.5)
        >>> [term.name for term in objective(outputs, batch, costs)]
        ['nll', 'gate/0', 'gate/1', 'cost']
    """

    tags: Tensor  # [rows] int32, -1 for a row that was not looked at; [0] before the first refresh

    def __init__(
        self,
        weight: Scheduled[float] = 1.0,
        *,
        target_cost: float | None = None,
        unit: str = "macs",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            weight,
            target_cost=target_cost,
            unit=unit,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValidationError(f"wanted seed as a whole number, got {seed!r}")
        self.seed = seed
        self.register_buffer("tags", torch.empty(0, dtype=torch.int32))

    def forward(self, outputs: Sequence[ExitOutput], batch: Batch, costs: Costs) -> list[Term]:
        """``nll``, ``gate/k`` of each gate, and ``cost``, lambda included.

        With ``target_cost`` also ``anchor``, which holds the gates where the target is met.

        Raises:
            ValidationError: if an early exit has no gate, a row has no number or one that the tags
                do not have, or a target on the CPU is no class.
            BudgetError: if ``target_cost`` is out of reach.
        """
        num_exits = len(outputs)
        gates, target = stack_gates(outputs), self.counted(outputs, batch)
        relative = costs.relative(self.unit)
        tags = self.exits_of(batch.index, num_exits).to(gates.device)  # [N]
        valid = target >= 0  # [N, *S]
        used = counting(target)  # [N]
        losses = _losses(outputs, target, self.label_smoothing)  # [N, K]
        counts = used[:, None].to(losses)  # [N, 1]
        chosen = F.one_hot(tags, num_exits) * counts  # [N, K]
        leave, stay = chosen[:, :-1], counts - chosen[:, :-1]  # [N, K-1]
        here = valid.sum()
        told = [
            torch.stack([used.sum(), here]).to(losses),
            (losses * chosen).sum().to(losses)[None],
            chosen.sum(0),
        ]

        def parts(gates: Tensor) -> tuple[list[Term], Tensor]:
            asked = [
                (suffix_costs(gates, relative)[:, :1] * counts).sum(0).to(losses),
                (F.softplus(-gates) * leave).sum(0).to(losses),
                (F.softplus(gates) * stay).sum(0).to(losses),
            ]
            sizes = [1, 1, 1, num_exits, 1, num_exits - 1, num_exits - 1]
            sums = summed(torch.cat([*told, *asked])).split(sizes)
            rows, num, own, leaving, expected, positive, negative = sums
            rows = rows.clamp_min(1)
            share = leaving / rows  # [K]
            early = share[:-1]
            taught = ((1 - early) * positive + early * negative) / rows  # [K-1]
            terms = [
                Term("nll", (own / num.clamp_min(1))[0]),
                *(Term(f"gate/{k}", loss) for k, loss in enumerate(taught)),
            ]
            # without a target the cost of the tags, which has no gradient
            of_tags = (share * relative.to(share)).sum()
            cost = of_tags if self.target_cost is None else (expected / rows)[0]
            terms = [term._replace(value=of_all(term.value, here)) for term in terms]
            return terms, of_all(cost, here)

        return self.pressure.weigh(parts, gates, costs, batch, target)

    @torch.no_grad()
    def refresh(
        self, answers: Iterable[tuple[Sequence[ExitOutput], Batch]], costs: Costs, rows: int
    ) -> None:
        """Tag every row with the exit of the smallest loss plus lambda times cost.

        Of equal ones it is the earliest; the loss of a map is its positions' mean. A row without a
        target that counts keeps its tag.
        """
        relative = costs.relative(self.unit)
        numbers: list[Tensor] = []
        losses: list[Tensor] = [relative.new_empty(0, len(relative), dtype=torch.float32)]
        factor = 0.0
        for outputs, batch in answers:
            target = self.counted(outputs, batch)
            each = (target >= 0)[..., None].flatten(1).sum(1)  # [N], positions that count
            mean = _losses(outputs, target) / each.clamp_min(1)[:, None]  # [N, K]
            used = (each > 0).cpu()
            numbers.append(_numbers(batch.index, rows).cpu()[used])
            losses.append(mean.cpu()[used])
            if self.target_cost is None:
                factor = self.pressure.given(len(outputs), batch.progress)
        every = torch.cat(losses)  # [n, K], of this process
        if self.target_cost is not None:
            factor = _factor_for(every, relative, self.target_cost)
        found = torch.zeros(rows, dtype=torch.int32)  # 0 is not looked at
        best = (every + factor * relative.to(every)).argmin(1)  # argmin takes the first
        if numbers:
            found[torch.cat(numbers)] = best.to(found) + 1
        found = total(found).to(self.tags.device)
        before = self.tags if len(self.tags) == rows else torch.full_like(found, -1)
        self.tags = torch.where(found > 0, found - 1, before)

    def exits_of(self, index: Tensor, num_exits: int) -> Tensor:
        """The tags of these rows, [N] int64.

        Args:
            index: rows of the data set, [N].
            num_exits: K; tags are below it.

        Raises:
            ValidationError: if a row has no number, or one that the tags do not have.
        """
        rows = len(self.tags)
        numbers = _numbers(index, rows or None)
        drawn = _drawn(numbers, self.seed, num_exits)
        if not rows:
            return drawn
        kept = self.tags[numbers.to(self.tags.device)].to(drawn)
        return torch.where(kept < 0, drawn, kept)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take tags of any number of rows."""
        given = state_dict.get(f"{prefix}tags")
        if isinstance(given, Tensor) and given.dim() == 1:
            self.tags = self.tags.new_empty(given.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _losses(outputs: Sequence[ExitOutput], target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of every exit for each row, summed over the positions that count, [N, K]."""
    return exit_losses(outputs, target, smoothing)[..., None].flatten(2).sum(2)


def _factor_for(losses: Tensor, costs: Tensor, target: float) -> float:
    """The smallest lambda at which the tags' mean cost is at most the target, by bisection.

    Args:
        losses: [n, K], of this process's rows; tags are those of all processes together.
        costs: [K].
        target: a mean cost.
    """

    def mean(factor: float) -> float:
        best = (losses + factor * costs.to(losses)).argmin(1)
        cost, num = total(torch.stack([costs[best].sum(), costs.new_tensor(len(best))])).tolist()
        return cost / max(1, num)

    low, high = -20.0, 20.0  # of its inverse hyperbolic sine: no loss is that large
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(sinh(middle)) > target else (low, middle)
    return sinh(high)


def _numbers(index: Tensor, rows: int | None) -> Tensor:
    """Row numbers, [N] int64, checked where looking does not stall a GPU."""
    if index.device.type == "cpu" and len(index):
        low, high = int(index.min()), int(index.max())
        if low < 0:
            raise ValidationError(
                "wanted Batch.index, the rows' numbers in the data set, got -1: a DataLoader does "
                "not say them; give its Dataset itself"
            )
        if rows is not None and high >= rows:
            raise ValidationError(
                f"wanted rows of the data set that the tags are of, 0 to {rows - 1}, got {high}"
            )
    return index.long()


def _drawn(index: Tensor, seed: int, num_exits: int) -> Tensor:
    """An exit for each row, [N], that depends on its number and the seed alone (splitmix64)."""
    bits = (index + 1 + seed * 1_000_003 % 2**40) * _ODD[0]  # int64 overflows as it should
    for shift, factor in zip((30, 27), _ODD[1:], strict=True):
        bits = (bits ^ (bits >> shift & (1 << 64 - shift) - 1)) * factor
    return (bits >> 33 & (1 << 31) - 1) % num_exits


_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # as signed numbers
