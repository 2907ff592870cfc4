"""Where and how a model runs: device, precision and layout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..costs import modules_of
from ..data.batches import Rows
from ..errors import ValidationError
from ..model import MultiExitModel
from ..trees import map_tensors, move
from .options import Options


class Place(NamedTuple):
    """Where and how a model runs."""

    device: torch.device
    precision: str = "float32"
    channels_last: bool = False

    def of(self, options: Options) -> Place:
        """This device, with the precision and layout of a phase."""
        precision = options.precision
        if precision == "auto":
            precision = "bf16" if has_bf16(self.device) else "float32"
        return self._replace(precision=precision, channels_last=options.channels_last)

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


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16; a processor without AVX-512 or its like emulates it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_layout(model: MultiExitModel, place: Place) -> None:
    """Refuse the one combination in which torch gives wrong gradients without a word.

    On a processor with bf16 units, in bf16 and channels last, the weight gradient of a dilated
    convolution is partly memory that was never written (torch 2.15 with oneDNN; of dense
    convolutions where channels are no multiple of 16).

    Raises:
        ValidationError: if the model would be trained so.
    """
    if not (place.device.type == "cpu" and place.precision == "bf16" and place.channels_last):
        return
    convs = [m for m in modules_of(model) if isinstance(m, nn.Conv2d) and max(m.dilation) > 1]
    if convs:
        raise ValidationError(
            f"wanted channels_last=False beside precision='bf16' on a CPU for a model with dilated "
            f"convolutions, got True and {len(convs)} of them: torch computes wrong weight "
            "gradients there"
        )


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
