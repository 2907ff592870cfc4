"""Bounds on the making of a model from a recipe that somebody else wrote."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import BundleError
from ..trees import tensors

_SLACK_COUNT, _SLACK_NUMBERS = 1000, 2**20  # what is made and replaced again
_MOST_NUMBERS = 2**26  # of one tensor; a ResNet-50 on images of 1024 x 1024 makes 5e7


@contextmanager
def bounded(count: int, numbers: int) -> Iterator[None]:
    """Stop what makes many more parameters than a file holds, or a tensor of no reasonable size.

    A parameter is counted as it is registered, before its initialisation writes to its memory, so
    that a large one costs nothing.

    Args:
        count: tensors in the file.
        numbers: numbers in all of them together.

    Raises:
        BundleError: when a bound is passed.
    """
    seen: dict[int, nn.Parameter] = {}
    here, total = threading.get_ident(), 0

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in seen or threading.get_ident() != here:
            return
        seen[id(parameter)] = parameter
        total += parameter.numel()
        if len(seen) > 2 * count + _SLACK_COUNT or total > 2 * numbers + _SLACK_NUMBERS:
            raise BundleError(
                f"wanted a recipe for the {count} tensors of {numbers} numbers in the file, "
                "got one for a far larger model"
            )

    hook = register_module_parameter_registration_hook(register)
    try:
        with _Sizes(max(_MOST_NUMBERS, 2 * numbers)):
            yield
    finally:
        hook.remove()


class _Sizes(TorchDispatchMode):
    """Stops at a tensor of more numbers than a bound, where it can before it is there."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.name == "size" and isinstance(value, list | tuple | torch.Size):
                self._check(math.prod(value))
        out = func(*args, **(kwargs or {}))
        for tensor in [out] if isinstance(out, Tensor) else tensors(out):
            self._check(tensor.numel())
        return out

    def _check(self, numbers: int) -> None:
        if numbers > self.most:
            raise BundleError(
                f"wanted a recipe whose tensors have at most {self.most} numbers each, "
                f"got one with {numbers}"
            )
