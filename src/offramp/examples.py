"""Describing an example in plain data, and making one like it: shapes and dtypes, no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import ValidationError
from .trees import State

Described = dict[str, Any]  # plain data, fit for JSON: see `describe`

_MOST_NUMBERS = 2**24  # of one tensor for one input: 16 images of 3 x 590 x 590
_MOST_DIMS, _MOST_DEPTH = 8, 4


def describe(example: State) -> Described:
    """Describe inputs: shapes for one input and dtypes, and none of their values.

    A tensor is ``{"shape": [*S], "dtype": "float32"}``, several are ``{"dict": {name: ...}}`` or
    ``{"tuple": [...]}``; None, numbers and words are ``{"value": ...}``. Of anything else the type
    is named, as ``{"type": ...}``, and no example can be made from that.

    Example:
        >>> describe(torch.zeros(8, 3, 32, 32))
        {'shape': [3, 32, 32], 'dtype': 'float32'}
    """
    if isinstance(example, Tensor):
        return {"shape": list(example.shape[1:]), "dtype": str(example.dtype).rpartition(".")[2]}
    if isinstance(example, Mapping):
        return {"dict": {str(name): describe(value) for name, value in example.items()}}
    if isinstance(example, tuple | list):
        return {"tuple": [describe(value) for value in example]}
    if example is None or isinstance(example, bool | int | float | str):
        return {"value": example}
    return {"type": type(example).__qualname__}


def make_example(
    described: Described, *, rows: int = 2, like: Tensor | None = None, padding: int | None = None
) -> State:
    """Make inputs as described: floats are random, and the same each time; a mask masks nothing.

    Args:
        described: what `describe` gave; it may come from a file that somebody else wrote.
        rows: size of the batch.
        like: a parameter of the network; the inputs are on its device, and where both are floats,
            of its dtype.
        padding: the token number that stands for padding, which the example has none of.

    Raises:
        ValidationError: if it is no description, or one of something large.

    Example:
        >>> make_example({"shape": [3, 32, 32], "dtype": "float32"}).shape
        torch.Size([2, 3, 32, 32])
    """
    return _make(described, "", (rows, like, padding), 0)


def _make(described: Any, name: str, options: tuple[int, Tensor | None, int | None], d: int) -> Any:
    kind = described.keys() if isinstance(described, dict) else set()
    if d > _MOST_DEPTH:
        raise ValidationError(f"wanted an example of at most {_MOST_DEPTH} levels, got more")
    if kind == {"shape", "dtype"}:
        return _tensor(described["shape"], described["dtype"], name, options)
    if kind == {"dict"} and isinstance(described["dict"], dict):
        return {n: _make(value, n, options, d + 1) for n, value in described["dict"].items()}
    if kind == {"tuple"} and isinstance(described["tuple"], list):
        return tuple(_make(value, name, options, d + 1) for value in described["tuple"])
    if kind == {"value"} and not isinstance(described["value"], dict | list):
        return described["value"]
    raise ValidationError(
        f"wanted an example of tensors, in a dict or a tuple if several, got {str(described)[:80]}"
    )


def _tensor(
    shape: Any, dtype: Any, name: str, options: tuple[int, Tensor | None, int | None]
) -> Tensor:
    rows, like, padding = options
    size = _size(shape)
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(kind, torch.dtype):
        raise ValidationError(f"wanted the name of a torch dtype, got {str(dtype)[:40]!r}")
    device = "cpu" if like is None else like.device
    if kind.is_floating_point:
        kind = like.dtype if like is not None and like.is_floating_point() else kind
        source = torch.Generator().manual_seed(0)
        return torch.randn(rows, *size, generator=source).to(device, kind)
    filled = 1 if kind == torch.bool or "mask" in name else int(padding == 0)
    return torch.full((rows, *size), filled, dtype=kind, device=device)


def _size(shape: Any) -> list[int]:
    if not isinstance(shape, list) or len(shape) > _MOST_DIMS:
        raise ValidationError(f"wanted a shape of at most {_MOST_DIMS} dimensions, got {shape!r}")
    numbers = 1
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValidationError(f"wanted a shape of whole numbers from 1, got {shape!r}")
        numbers *= length
    if numbers > _MOST_NUMBERS:
        raise ValidationError(
            f"wanted an example of at most {_MOST_NUMBERS} numbers for one input, got {shape!r}"
        )
    return shape
