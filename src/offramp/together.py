"""What the processes that train together tell each other: sums over all of them.

Where no group of `torch.distributed` is initialised this process is alone, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from .errors import TrainingError


@torch.no_grad()
def total(tensor: Tensor) -> Tensor:
    """The sum over all processes: a new tensor without a graph, the same one everywhere.

    All processes must call it in the same order, with tensors of the same shape and dtype. Alone it
    is a copy.

    Raises:
        TrainingError: if another process is gone.

    Example:
        >>> mean = total(values.sum(0)) / total(torch.tensor(float(len(values))))
    """
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    if alone():
        return result
    sent = wire(result)
    with others_there():
        dist.all_reduce(sent)
    return sent.to(result.device)


@torch.no_grad()
def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes, one process's after the other's; alone it is the tensor itself.

    Args:
        tensor: [N, *S]; N may differ from process to process, and be 0.
    """
    tensor = tensor.detach()
    if alone():
        return tensor
    size, rank = dist.get_world_size(), dist.get_rank()
    rows = torch.zeros(size, dtype=torch.int64, device=tensor.device)
    rows[rank] = len(tensor)
    counts = total(rows).tolist()
    every = tensor.new_zeros(sum(counts), *tensor.shape[1:])
    begin = sum(counts[:rank])
    every[begin : begin + len(tensor)] = tensor
    return total(every)


def summed(tensor: Tensor) -> Tensor:
    """`total`, with the gradient of this process's summand; alone it is the tensor itself.

    A loss that is no mean over rows, such as one of the batch's own means, is made of such sums and
    then given to `of_all`.
    """
    return tensor if alone() else total(tensor) + (tensor - tensor.detach())


def of_all(loss: Tensor, weight: Tensor) -> Tensor:
    """A loss of the whole batch, made of `summed` sums, as training needs it.

    Training takes the mean of all processes' gradients, each weighted by the number of its targets
    that count. For a loss that every process has whole that would be too small: here a process has
    its value, and so large a gradient that the mean is that of one process with all rows.

    Args:
        loss: [], the same everywhere.
        weight: [], number of targets that count here. Where there is none, nothing here may have
            gone into the sums.
    """
    if alone():
        return loss
    weight = weight.to(loss.dtype)
    factor = total(weight) / weight.clamp_min(1)
    return loss.detach() + factor * (loss - loss.detach())


def alone() -> bool:
    """Whether there is no other process to tell anything."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2


@contextmanager
def others_there() -> Iterator[None]:
    """Say in one line that another process has ended, which says itself why."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).partition("\n")[0]
        raise TrainingError(
            f"wanted all processes to go on together, but another one is gone: {told}"
        ) from error


def wire(tensor: Tensor) -> Tensor:
    """The tensor where the group can send it from: NCCL sends from GPUs only."""
    return tensor.to("cuda") if dist.get_backend() == "nccl" else tensor
