"""Pytrees of batch-first tensors: what a state is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import ValidationError

State = Any  # a pytree of batch-first tensors; leaves that are no tensors are carried as they are


def map_tensors(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a state; other leaves stay as they are."""
    if isinstance(state, Tensor):
        return function(state)
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, state)


def tensors(state: State) -> list[Tensor]:
    """List the tensors of a state."""
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def take(state: State, rows: Tensor) -> State:
    """Keep some rows of every tensor; `rows` are indices [n] or a mask [N]."""
    return map_tensors(lambda tensor: tensor[rows], state)


def move(state: State, device: torch.device | str) -> State:
    """Move every tensor to a device."""
    # a copy to the processor that is not waited for could be read before it is there
    ahead = torch.device(device).type != "cpu"
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=ahead), state)


def num_rows(state: State) -> int:
    """Size of the batch that a state holds.

    Raises:
        ValidationError: if there is no tensor, or the tensors disagree on their first dimension.
    """
    sizes = {tensor.shape[0] if tensor.dim() else None for tensor in tensors(state)}
    if len(sizes) != 1 or None in sizes:
        shapes = [tuple(tensor.shape) for tensor in tensors(state)]
        raise ValidationError(
            f"wanted tensors with one common first dimension, the batch; got shapes {shapes}"
        )
    return int(sizes.pop() or 0)
