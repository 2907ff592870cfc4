"""CamVid: street scenes of eleven classes (Brostow et al. 2009), in the split of SegNet.

Mean and standard deviation are those of the 367 training images, on a scale where white is 1::

    table = datasets.load_dataset(path, split="train")
    pixels = numpy.stack([row["image"].convert("RGB") for row in table]) / 255
    pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .base import Splits, register
from .hub import load, local_folder
from .map_parts import (
    MapDraw,
    OfficialMaps,
    Prepared,
    assemble_maps,
    pair_folders,
    read_columns,
    squashed,
)
from .masks import VOID, Legend

MEAN = (0.4137, 0.4273, 0.4340)
STD = (0.3018, 0.3056, 0.3017)

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)

_IMAGE, _MASK = "image", "semantic_segmentation"
# of frames of 45 x 60, the nearest one in train is 22 gray levels away where calibration is drawn
# singly, 28 in twelves (means of 30 seeds of the median over frames); of the frames of test, 32
_TOGETHER = 12
_UNLABELLED = len(CLASSES)  # what SegNet's files have where nothing is said; the hub's way is 255


@register("camvid")
def camvid(
    *,
    path: str | Path,
    image_size: Sequence[int] = (180, 240),
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    seed: int = 0,
    images: int | None = None,
    validation: float | None = None,
    calibration: float = 0.1,
    in_memory: bool | None = None,
) -> Splits:
    """CamVid: 701 frames from a car's window, every pixel one of eleven classes (SegNet's split).

    367 are the official training split, 101 the validation part and 233 the test part. The targets
    are maps, int64 [N, H, W], -100 where nothing is labelled. Frames that follow one another are
    alike, so calibration is drawn from train in stretches of twelve.

    Args:
        path: a folder that ``datasets.load_dataset`` reads, or a hub id, with the columns ``image``
            and ``semantic_segmentation``, and the splits train, validation and test; or SegNet's
            folder ``CamVid`` with ``train``, ``trainannot``, ``val``, ``valannot``, ``test`` and
            ``testannot``.
        image_size: height and width of inputs and maps, in pixels; whole images are squashed to it.
        mean: for normalisation; by default of the training images.
        std: likewise.
        seed: of what is drawn.
        images: keep so many images in train; see `offramp.data.map_parts.MapDraw`.
        validation: share of train; by default the official split.
        calibration: share of train.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the data set cannot be read, or a mask holds another value than 0..10, 11 and
            255.
        MissingExtraError: if ``datasets`` or Pillow is not installed.
    """
    draw = MapDraw(seed, images, validation, calibration, in_memory=in_memory, together=_TOGETHER)
    values = {number: number for number in range(len(CLASSES))}
    legend = Legend({**values, _UNLABELLED: VOID, VOID: VOID})
    prepared = Prepared(squashed(image_size, mean, std), legend)
    return assemble_maps(_official(path), CLASSES, prepared, draw)


def _official(path: str | Path) -> OfficialMaps:
    folder = local_folder(path)
    if folder is not None and (folder / "trainannot").is_dir():
        train, validation, test = (
            pair_folders(folder / name, folder / f"{name}annot")
            for name in ("train", "val", "test")
        )
        return OfficialMaps(train, validation, test)
    found = load(path, None, columns=f"the columns {_IMAGE} and {_MASK}")
    official = read_columns(found, _IMAGE, _MASK)
    if official.test is None:
        raise DataError(f"wanted the splits train, validation and test in {path}, got {[*found]}")
    return official
