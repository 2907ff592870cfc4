"""Some test inputs as small pictures, with what each exit answers and where they leave."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.batches import Data
from ..errors import extra
from ..functional import nearest, upsample
from ..metrics import has_maps
from ..types import Records
from .colours import VOID, Colour, class_colours, hexadecimal, picture, png_options

if TYPE_CHECKING:
    from PIL.Image import Image

_PER_EXIT, _MAPS_PER_EXIT = 12, 4
_PER_CLASS, _PICTURES = 3, 240  # of an exit's, beyond _PER_EXIT; of all exits together
_SIDE, _MAP_SIDE = 64, 128  # pixels, at most

Exits = Sequence[tuple[str, Sequence[Tensor]]]


def draw_samples(
    data: Data,
    records: Records,
    exits: Exits,
    class_names: Sequence[str] = (),
    *,
    rules: Mapping[str, Tensor] | None = None,
) -> dict[str, Any] | None:
    """Pictures of some test inputs; None where inputs are no images.

    Inputs are drawn so that every exit has some at the middle budget of the first policy, among
    which labels take turns. Where targets are maps these and the answers are pictures too, in the
    ``colours`` of the classes; what does not count is see-through.

    Args:
        data: the test part; tensors of images or a data set with ``raw(rows)``.
        records: of the same part, in the same order.
        exits: by policy, for each budget in turn the exit of every input, [N].
        class_names: of maps, for their colours.
        rules: by policy, the exit of every input by its published thresholds, [N].
    """
    if not exits:
        return None
    maps, middle = has_maps(records), exits[0][1][len(exits[0][1]) // 2]
    most, labels = _most(records), None if maps else records.targets
    drawn = [_some(middle == k, most, labels) for k in range(records.num_exits)]
    rows = torch.cat(drawn).sort().values
    pixels = _pixels(data, rows)
    if pixels is None:
        return None
    chosen = records.take(rows)  # the others are not read
    said = _maps(chosen, class_names) if maps else _labels(chosen)
    return {
        "images": [_image(each, _MAP_SIDE if maps else _SIDE) for each in pixels],
        **said,
        "exits": {name: [left[rows].tolist() for left in each] for name, each in exits},
        "rules": {name: left[rows].tolist() for name, left in (rules or {}).items()},
    }


def _labels(records: Records) -> dict[str, Any]:
    answers = [logits.argmax(1).tolist() for logits in records.logits]
    return {"labels": records.targets.tolist(), "answers": answers}


def _maps(records: Records, class_names: Sequence[str]) -> dict[str, Any]:
    names = [*class_names, *map(str, range(len(class_names), records.num_classes))]
    colours = class_colours(names)
    targets, answers = [], [[] for _ in range(records.num_exits)]
    for shard in records:
        for row, target in enumerate(shard.targets):
            targets.append(_map(target, colours))
            for out, drawn in zip(shard.outputs, answers, strict=True):
                logits = upsample(out.logits[row : row + 1], target.shape)
                drawn.append(_map(logits[0].argmax(0), colours))
    shown = [hexadecimal(colour) for colour in colours]
    return {"targets": targets, "answers": answers, "colours": shown}


def _most(records: Records) -> int:
    """How many pictures an exit has at most: some of each class, not too many for a page."""
    if has_maps(records):
        return _MAPS_PER_EXIT
    some = min(_PER_CLASS * records.num_classes, _PICTURES // records.num_exits)
    return max(_PER_EXIT, some)


def _some(chosen: Tensor, most: int, labels: Tensor | None = None) -> Tensor:
    """Row numbers of at most so many of the chosen rows, drawn by a fixed seed.

    With labels, a row of each label comes before a second of any.
    """
    rows = chosen.nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    if labels is not None:
        rows = rows[_before(labels[rows]).sort(stable=True).indices]
    return rows[:most]


def _before(labels: Tensor) -> Tensor:
    """How many of the same label come before each, [n]."""
    order = labels.sort(stable=True).indices
    _, counts = labels[order].unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)) - starts)


def _pixels(data: Data, rows: Tensor) -> Tensor | None:
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


def _image(pixels: Tensor, side: int) -> str:
    """A picture [C, H, W] uint8 as the address of a PNG, at most so many pixels wide and high."""
    with extra("data"):
        from PIL import Image
    image = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
    height, width = _within(pixels.shape[1:], side)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _address(image, {"optimize": True})


def _map(classes: Tensor, colours: Sequence[Colour]) -> str:
    """A map [H, W] as the address of a PNG, as large as the image beside it."""
    shown = nearest(classes[None], _within(classes.shape, _MAP_SIDE))[0]
    made = picture(shown, colours) if len(colours) <= VOID else _coloured(shown, colours)
    return _address(made, png_options(made))


def _coloured(classes: Tensor, colours: Sequence[Colour]) -> Image:
    """A map [H, W] of more classes than a palette holds."""
    with extra("data"):
        from PIL import Image
    table = torch.tensor([*((*colour, 255) for colour in colours), (0, 0, 0, 0)]).byte()
    return Image.fromarray(table[classes.where(classes >= 0, len(colours))].numpy())


def _within(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width at most ``side``, in the same proportion."""
    share = min(1.0, side / max(shape))
    height, width = (max(1, round(each * share)) for each in shape)
    return height, width


def _address(image: Image, options: dict[str, Any]) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
