"""Preprocessing: the pixels of torchvision, every kind of image, and an exact way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from offramp.errors import DataError

from .layouts import noise


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (30, 30), (9, 33)])
def test_resize_and_middle_are_torchvisions(size: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    image = noise("photo", size)
    ours = Preprocess((20, 22), 25)(image)
    theirs = v2.Compose(
        [
            v2.Resize(25, antialias=True),
            v2.CenterCrop((20, 22)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )(image)
    assert ours.shape == (3, 20, 22) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)


def test_without_resize_the_image_is_squashed() -> None:
    image = noise("photo", (40, 61))
    wanted = np.asarray(image.resize((12, 10), Image.Resampling.BILINEAR))
    pixels = Preprocess((10, 12)).pixels(image)
    assert torch.equal(pixels, torch.tensor(wanted).permute(2, 0, 1))
    whole = Preprocess((40, 61)).pixels(image)
    assert torch.equal(whole, torch.tensor(np.asarray(image)).permute(2, 0, 1))


def test_normalise_is_the_formula_and_display_its_inverse() -> None:
    preprocess = Preprocess((16, 16), None, (0.5, 0.1, 0.9), (0.2, 0.01, 1.3))
    pixels = torch.arange(256).view(1, 1, 16, 16).expand(2, 3, 16, 16).byte()
    inputs = preprocess.normalise(pixels)
    for c in range(3):
        wanted = (pixels[0, c].double() / 255 - preprocess.mean[c]) / preprocess.std[c]
        torch.testing.assert_close(inputs[1, c].double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(preprocess.display(inputs), pixels)
    assert torch.equal(preprocess.display(inputs[0]), pixels[0])
    assert preprocess.display(torch.full((3, 2, 2), 1e9)).unique().tolist() == [255]


def gray16() -> Image.Image:
    return Image.fromarray((np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4))


KINDS: dict[str, tuple[Image.Image, list[int]]] = {  # and their first pixel as RGB
    "gray": (Image.new("L", (4, 4), 77), [77, 77, 77]),
    "bilevel": (Image.new("1", (4, 4), 1), [255, 255, 255]),
    "opaque": (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), [10, 20, 30]),
    "transparent": (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), [255, 255, 255]),
    "gray, half transparent": (Image.new("LA", (4, 4), (0, 128)), [127, 127, 127]),
    "palette": (Image.new("RGB", (4, 4), (10, 20, 30)).quantize(2), [10, 20, 30]),
    "ink": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), [255, 0, 0]),
    "16 bits": (gray16().rotate(180), [240, 240, 240]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_8_bits_of_rgb_or_gray(kind: str) -> None:
    image, first = KINDS[kind]
    pixels = Preprocess((4, 4)).pixels(image)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 4, 4)
    assert pixels[:, 0, 0].tolist() == pytest.approx(first, abs=2)
    gray = Preprocess((4, 4), mean=(0.0,), std=(1.0,), mode="L").pixels(image)
    assert gray.shape == (1, 4, 4)
    if len(set(first)) == 1:
        assert int(gray[0, 0, 0]) == pytest.approx(first[0], abs=2)


def test_a_transparent_palette_becomes_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.info["transparency"] = 1
    assert Preprocess((4, 4)).pixels(image)[:, 0, 0].tolist() == [255, 255, 255]
    image.info["transparency"] = b"\x00\xff"  # of each colour: only the first is transparent
    assert Preprocess((4, 4)).pixels(image)[:, 0, 0].tolist() == [200, 0, 0]


def test_a_photograph_held_upright_is_turned_upright() -> None:
    import io

    image = Image.new("RGB", (8, 4), "black")
    image.paste((255, 255, 255), (0, 0, 4, 4))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    read = Image.open(file)
    read.load()
    pixels = Preprocess((8, 4)).pixels(read)
    assert int(pixels[0, :4].min()) == 255 and int(pixels[0, 4:].max()) == 0  # white at the top


def test_16_bits_of_gray_become_8_in_every_format() -> None:
    import io

    pixels = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    pgm = Image.open(io.BytesIO(b"P5 4 4 65535\n" + pixels.astype(">u2").tobytes()))
    files = {"PGM": pgm}
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        gray16().save(file, kind)
        files[kind] = Image.open(file)
    for kind, image in files.items():
        found = Preprocess((4, 4), mean=(0.0,), std=(1.0,), mode="L").pixels(image)
        assert found[0].tolist() == (pixels >> 8).tolist(), kind


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "wanted a PIL image, got ndarray"),
        (Image.new("F", (4, 4)), "32 bits, mode F"),
        (Image.new("I", (4, 4)), "32 bits, mode I"),
        (Image.new("RGB", (4, 4000)), r"at most 1 : 100, got \(4, 4000\)"),
    ],
)
def test_what_cannot_be_an_input_says_so(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess((4, 4), 5)(image)


GOOD = Preprocess((4, 6), 8).to_dict()


def test_fields_are_plain_and_come_back() -> None:
    assert GOOD["size"] == [4, 6] and GOOD["mode"] == "RGB"
    assert Preprocess.from_dict(GOOD) == Preprocess((4, 6), 8)
    gray = Preprocess((4, 6), None, (0.1,), (1,), "L")
    assert Preprocess.from_dict(gray.to_dict()) == gray
    assert gray.shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [4]}, "size"),
        ({"size": [4, 0]}, "size"),
        ({"size": [4, 10**9]}, "in 1..8192"),
        ({"size": [4, True]}, "size"),
        ({"size": "44"}, "size"),
        ({"resize": 5}, r"in 6..8192.*got 5"),
        ({"resize": 8.5}, "resize"),
        ({"mode": "BGR"}, "'RGB' or 'L', got 'BGR'"),
        ({"mode": ["RGB"]}, "'RGB' or 'L'"),
        ({"mode": "L"}, "mean as 1 numbers for L"),
        ({"mean": [0.1, 0.2]}, "mean as 3 numbers"),
        ({"mean": [0.1, 0.2, float("nan")]}, "mean"),
        ({"mean": None}, "mean"),
        ({"std": [0.1, 0.2, 0]}, "std as 3 positive numbers"),
        ({"std": "abc"}, "std"),
        ({"std": [0.1, 0.2, "0.3"]}, "std"),
        ({"crop": 3}, "fields.*crop"),
    ],
)
def test_fields_of_the_wrong_kind_are_one_clear_error(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Preprocess.from_dict({**GOOD, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plain", [None, [1, 2], "RGB", {}, {"size": [4, 4]}])
def test_anything_but_the_fields_is_one_clear_error(plain: Any) -> None:
    with pytest.raises(DataError, match="wanted preprocessing"):
        Preprocess.from_dict(plain)
