"""Where and how a model runs: device, precision and layout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batches import Rows
from ..trees import map_tensors, move


class Place(NamedTuple):
    """Where and how a model runs."""

    device: torch.device
    precision: str = "float32"
    channels_last: bool = False

    def settle(self, *modules: nn.Module) -> None:
        """Move modules to the device and into the layout."""
        for module in modules:
            module.to(self.device)
            if self.channels_last:
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def bring(self, rows: Rows) -> Rows:
        """Rows on the device and in the layout."""
        inputs = move(rows.inputs, self.device)
        if self.channels_last:
            inputs = map_tensors(_channels_last, inputs)
        return rows._replace(inputs=inputs, target=move(rows.target, self.device))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision, as a context."""
        return (
            torch.autocast(self.device.type, torch.bfloat16)
            if self.precision == "bf16"
            else nullcontext()
        )


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
