"""Masks: what their values stand for, and that they are cut as their images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.data.encoded import Paths
from offramp.data.masks import VOID, Legend, Pairs, decode_pair
from offramp.data.preprocess import Preprocess
from offramp.errors import DataError

from .layouts import encoded, mask_of, noise

ALL = Legend({value: value for value in range(254)})
COLOURS = Legend({}, {(255, 0, 0): 0, (0, 0, 255): 1, (0, 0, 254): 1, (0, 0, 0): VOID})


def array(values: Any, dtype: Any = np.uint8) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype))


def files(folder: Path, image: Image.Image, mask: Image.Image) -> Pairs:
    image.save(folder / "photo.png")
    mask.save(folder / "classes.png")
    return Pairs(Paths([folder / "photo.png"]), Paths([folder / "classes.png"]))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_values_stand_for_classes_in_every_kind_of_mask(mode: str) -> None:
    legend = Legend({0: 2, 7: 0, 9: 1, 200: VOID})
    values = [[0, 7, 9], [200, 7, 0]]
    if mode == "I;16":
        mask = array(values, np.uint16)
    elif mode == "P":
        mask = array(values)
        mask.putpalette([255, 0, 0] * 256)  # the index counts, not its colour
    else:
        mask = array(values).convert(mode)
    assert mask.mode == mode
    wanted = [[legend.values[value] for value in row] for row in values]
    assert np.asarray(legend.read(mask)).tolist() == wanted


def test_black_and_white_masks_and_large_values_are_read() -> None:
    assert np.asarray(ALL.read(array([[0, 255]]).convert("1"))).tolist() == [[0, 1]]
    assert np.asarray(Legend({65535: 3}).read(array([[65535]], np.uint16))).tolist() == [[3]]


def test_colours_stand_for_classes() -> None:
    pixels = [[[255, 0, 0], [0, 0, 255]], [[0, 0, 254], [0, 0, 0]]]
    assert np.asarray(COLOURS.read(array(pixels))).tolist() == [[0, 1], [1, VOID]]
    palette = array([[1, 0]])
    palette.putpalette([0, 0, 255, 255, 0, 0])
    assert np.asarray(COLOURS.read(palette)).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("legend", "mask", "message"),
    [
        (ALL, array([[[1, 2, 3]]]), "gray or with a palette, got one of colours"),
        (ALL, array([[1, 254]]), r"the values 0\.\.253, got 254"),
        (
            Legend({0: 0, 1: 1, 3: 1}),
            array([[9, 8, 7, 6, 5, 4]]),
            r"0\.\.1, 3, got 4, 5, 6, 7, 8, ",
        ),
        (ALL, array([[-1]], np.int32), "larger ones"),
        (ALL, array([[0.5]], np.float32), "one channel, got mode F"),
        (ALL, Image.new("LA", (2, 2)), "one channel, got mode LA"),
        (COLOURS, array([[[1, 2, 3]]]), r"\(255, 0, 0\), got \(1, 2, 3\)"),
    ],
)
def test_what_a_legend_does_not_have_is_an_error(
    legend: Legend, mask: Image.Image, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        legend.read(mask)


def test_a_lossy_mask_is_refused() -> None:
    import io

    with pytest.raises(DataError, match="such as PNG, got JPEG"):
        ALL.read(Image.open(io.BytesIO(encoded(mask_of("a", values=(0, 1)), "JPEG"))))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (24, 40), (12, 16), (1, 1)])
def test_a_squashed_mask_has_the_nearest_values(size: tuple[int, int]) -> None:
    mask = array(np.arange(12 * 16).reshape(12, 16))
    found = Preprocess(size).mask(mask)
    assert found.shape == size
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = divmod(int(found[y, x]), 16)
            at = (y + 0.5) * 12 / size[0] - 0.5, (x + 0.5) * 16 / size[1] - 0.5
            # in the middle between two, either is the nearest
            assert abs(row - at[0]) <= 0.5 + 1e-9 and abs(column - at[1]) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("preprocess", "step"),
    [
        (Preprocess((30, 40)), 4),
        (Preprocess((240, 320)), 1),
        (Preprocess((30, 40), 60), 2),
        (Preprocess((100, 150), 160), 1),
    ],
)
def test_image_and_mask_are_cut_alike(tmp_path: Path, preprocess: Preprocess, step: int) -> None:
    """Red grows to the right and green downwards; so do the values of two masks."""
    down, right = np.mgrid[:120, :160]
    image = Image.fromarray(np.stack([right, down, 0 * down], 2).astype(np.uint8))
    for channel, values in ((0, right), (1, down)):
        pairs = files(tmp_path, image, array(values))
        pixels, mask = decode_pair(pairs, 0, preprocess, ALL)
        assert pixels.shape == preprocess.shape and mask.shape == preprocess.size
        apart = (pixels[channel].int() - mask.int()).abs()
        # at the edges the filter sees less to one side
        assert int(apart[step:-step, step:-step].max()) <= 1 and int(apart.max()) <= step


def test_a_photograph_that_was_held_upright_fits_its_mask(tmp_path: Path) -> None:
    image = noise("held", (10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turn a quarter to the right
    image.save(tmp_path / "photo.png", exif=exif)
    mask_of("held", (20, 12)).resize((10, 20), Image.Resampling.NEAREST).save(tmp_path / "m.png")
    pairs = Pairs(Paths([tmp_path / "photo.png"]), Paths([tmp_path / "m.png"]))
    pixels, _ = decode_pair(pairs, 0, Preprocess((20, 10)), Legend({**ALL.values, 255: VOID}))
    assert torch.equal(pixels, Preprocess((20, 10)).pixels(Image.open(tmp_path / "photo.png")))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            mask_of("a", (12, 12), (0, 1)),
            r"classes\.png: .*photo\.png, 16 x 12 pixels, got 12 x 12",
        ),
        (mask_of("a", (12, 16), (0, 254)), r"classes\.png: .*the values 0\.\.253, got 254"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(tmp_path: Path, mask: Image.Image, message: str) -> None:
    pairs = files(tmp_path, noise("a", (12, 16)), mask)
    with pytest.raises(DataError, match=message) as caught:
        decode_pair(pairs, 0, Preprocess((6, 8)), ALL)
    assert "\n" not in str(caught.value)


def test_a_mask_of_other_bytes_is_refused() -> None:
    with pytest.raises(DataError, match="mode L or P as a mask, got RGB"):
        Preprocess((2, 2)).mask(Image.new("RGB", (2, 2)))
    with pytest.raises(DataError, match="got ndarray"):
        Preprocess((2, 2)).mask(np.zeros((2, 2)))  # type: ignore[arg-type]
