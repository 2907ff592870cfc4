"""Some test inputs as small pictures, with what each exit answers and where they leave."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Data
from ..errors import extra
from ..types import Records

_PER_EXIT = 12
_SIDE = 64  # pixels, at most


def draw_samples(
    data: Data, records: Records, exits: Sequence[tuple[str, Sequence[Tensor]]]
) -> dict[str, Any] | None:
    """Pictures of some test inputs; None where inputs are no images or targets are maps.

    Inputs are drawn so that every exit has some at the middle budget of the first policy.

    Args:
        data: the test part; tensors of images or a data set with ``raw(rows)``.
        records: of the same part, in the same order.
        exits: by policy, for each budget in turn the exit of every input, [N].
    """
    targets = records.targets
    if targets.dim() != 1 or not exits:
        return None
    middle = exits[0][1][len(exits[0][1]) // 2]
    rows = torch.cat([_some(middle == k) for k in range(records.num_exits)]).sort().values
    pictures = _pictures(data, rows)
    if pictures is None:
        return None
    answers = [logits[rows].argmax(1).tolist() for logits in records.logits]
    return {
        "images": [_png(picture) for picture in pictures],
        "labels": targets[rows].tolist(),
        "answers": answers,
        "exits": {name: [left[rows].tolist() for left in each] for name, each in exits},
    }


def _some(chosen: Tensor) -> Tensor:
    """Row numbers of at most so many of the chosen rows, drawn by a fixed seed."""
    rows = chosen.nonzero().squeeze(1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows[order[:_PER_EXIT]]


def _pictures(data: Data, rows: Tensor) -> Tensor | None:
    """Images [n, 1 or 3, H, W] uint8, where there are any."""
    raw = getattr(data, "raw", None)
    if raw is not None:
        return raw(rows)
    inputs = data[0] if isinstance(data, tuple) else None
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        return None
    chosen = inputs[rows].float()
    low, high = inputs.min(), inputs.max()
    return ((chosen - low) / (high - low).clamp_min(1e-6) * 255).round().byte()


def _png(picture: Tensor) -> str:
    """A picture [C, H, W] uint8 as the address of a PNG, at most so many pixels wide and high."""
    with extra("data"):
        from PIL import Image
    pixels = picture.permute(1, 2, 0).squeeze(2).numpy()
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
