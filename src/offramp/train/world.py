"""The processes that train together, and the few things that they tell each other.

There is no wrapper around the model: each process runs its share of a batch, and gradients are
summed once per step. So a parameter may get gradients from several backward passes, or from none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import TrainingError
from ..together import others_there, total, wire

_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class World(NamedTuple):
    """This process's number, and how many there are; alone it is ``World(0, 1)``.

    Alone, nothing is sent: `reduce_gradients` divides, `total` copies, the others do nothing.
    All processes must call the same methods in the same order, with tensors of the same shapes;
    when one of them is gone, the others raise a TrainingError.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """Join the group that torchrun or ``accelerate launch`` describes in the environment.

        A group that is there already is taken as it is.

        Raises:
            TrainingError: if ``WORLD_SIZE`` says several processes, but the rest is not described.
        """
        if not (dist.is_available() and dist.is_initialized()):
            if int(os.environ.get("WORLD_SIZE") or 1) < 2:
                return cls()
            missing = [name for name in _LAUNCHED if name not in os.environ]
            if missing:
                raise TrainingError(
                    f"wanted {', '.join(_LAUNCHED)} in the environment beside WORLD_SIZE="
                    f"{os.environ['WORLD_SIZE']}, as torchrun sets them; {missing} are not set"
                )
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())
        return cls(dist.get_rank(), dist.get_world_size())

    @classmethod
    def leave(cls) -> World:
        """End the group, where there is one; what this process was in it."""
        world = cls.current()
        if world.size > 1:
            dist.destroy_process_group()
        return world

    def share(self, rows: Tensor, least: int = 1) -> Tensor:
        """This process's part of a batch's row numbers [n]: consecutive, and maybe empty.

        Sizes differ by one at most; the first processes have the larger parts. Where there are
        fewer than ``least`` for each, the last processes have none.
        """
        parts = max(1, min(self.size, len(rows) // least))
        return rows.tensor_split(parts)[self.rank] if self.rank < parts else rows[:0]

    @torch.no_grad()
    def reduce_gradients(self, parameters: Iterable[Tensor], weight: Tensor) -> None:
        """Make the gradients of all processes the weighted mean, in place, with one all-reduce.

        A parameter without a gradient here counts as one of zeros, and gets the mean of the others;
        without one anywhere it stays so. A total weight of zero leaves the sums as they are.

        Args:
            parameters: the same ones in the same order everywhere. Each gradient is a sum that is
                already multiplied by this process's weight.
            weight: [], such as the number of targets that counted here.
        """
        learning = list(parameters)
        if self.size == 1:
            for grad in (p.grad for p in learning if p.grad is not None):
                wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
                grad.copy_(wide / _divisor(weight))
            return
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in learning) else torch.float32
        device = learning[0].device if learning else weight.device
        there = [p.grad is not None for p in learning]
        flags = torch.tensor(there, dtype=dtype).to(device)
        parts = [_grad(p).to(device, dtype).flatten() for p in learning]
        flat = torch.cat([*parts, weight.detach().to(device, dtype).reshape(1), flags])
        flat = self.total(flat)
        sums, weights, flags = flat.split([flat.numel() - 1 - len(there), 1, len(there)])
        sums.div_(_divisor(weights))
        # looked at only where it matters: on a GPU looking waits for the reduction
        anywhere = there if all(there) else (flags > 0).tolist()
        for p, mean, some in zip(
            learning, sums.split([p.numel() for p in learning]), anywhere, strict=True
        ):
            if some:
                p.grad = torch.empty_like(p) if p.grad is None else p.grad
                p.grad.copy_(mean.view(p.shape))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, a new tensor, the same one everywhere."""
        return total(tensor)

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first one, in place; one message per dtype."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors if self.size > 1 else ():
            groups.setdefault(tensor.dtype, []).append(tensor)
        for group in groups.values():
            flat = wire(torch.cat([t.to(group[0].device).flatten() for t in group]))
            with others_there():
                dist.broadcast(flat, src=0)
            for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self.total(torch.zeros(())).item()


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _divisor(weight: Tensor) -> Tensor:
    """The weight, or 1 where it is 0: there all gradients are zero."""
    return torch.where(weight == 0, torch.ones_like(weight), weight)
