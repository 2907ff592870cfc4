"""The exponential moving average of weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

Left out: a bias correction and a decay that grows; the average starts at the weights that the phase
starts from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..costs import modules_of
from ..model import MultiExitModel
from .parts import named_tensors


class Average:
    """An average over steps of what is trained: parameters, and float buffers beside them.

    Tensors that training leaves alone have none, so they stay bit for bit what they are.

    Args:
        model: as training leaves it: what requires a gradient is averaged, and so are the float
            buffers of modules in training mode, such as batch norm's statistics.
        decay: the share of the old average that stays at each step.
    """

    def __init__(self, model: MultiExitModel, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: t for name, t in named_tensors(model).items() if t.requires_grad}
        self.tensors |= _moving_buffers(model)
        self.values = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        averages, present = list(self.values.values()), list(self.tensors.values())
        torch._foreach_lerp_(averages, present, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model, and the model's own weights back afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def settle(self) -> None:
        """Make the average the model's weights."""
        for name, tensor in self.tensors.items():
            tensor.copy_(self.values[name])

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from an average that was saved."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self.tensors.items():
            present = tensor.detach().clone()
            tensor.copy_(self.values[name])
            self.values[name].copy_(present)


def _moving_buffers(model: MultiExitModel) -> dict[str, Tensor]:
    own = {
        id(buffer)
        for module in modules_of(model)
        if module.training
        for buffer in module.buffers(recurse=False)
        # a mask of -inf is no statistic, and its average with itself would be NaN
        if buffer.is_floating_point() and bool(buffer.isfinite().all())
    }
    return {name: tensor for name, tensor in named_tensors(model).items() if id(tensor) in own}
