"""Augmentation of a batch is that of its images one by one, drawn from one generator."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from offramp.data import augmentation
from offramp.errors import OfframpError, OptionError, UnknownNameError, ValidationError

NUM, CHANNELS, HEIGHT, WIDTH = 24, 3, 10, 14


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(NUM, CHANNELS, HEIGHT, WIDTH, generator=seeded(seed))


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def each(function: Any) -> torch.Tensor:
    """One image after another, by row number."""
    return torch.stack([function(row, image.clone()) for row, image in enumerate(images())])


def test_crop_moves_every_image_and_fills_with_the_mean() -> None:
    moves = torch.randint(7, (2, NUM), generator=seeded()).tolist()

    def slow(row: int, image: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(image)
        down, right = moves[0][row] - 3, moves[1][row] - 3
        for y in range(HEIGHT):
            for x in range(WIDTH):
                if 0 <= y + down < HEIGHT and 0 <= x + right < WIDTH:
                    out[:, y, x] = image[:, y + down, x + right]
        return out

    assert torch.equal(augmentation([{"crop": {"padding": 3}}])(images(), seeded()), each(slow))
    assert len(set(zip(*moves, strict=True))) > 12


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flip_mirrors_some_images(probability: float) -> None:
    drawn = torch.rand((1, NUM), generator=seeded())[0].tolist()
    wanted = each(lambda row, image: image.flip(-1) if drawn[row] < probability else image)
    augment = augmentation([{"flip": {"probability": probability}}])
    assert torch.equal(augment(images(), seeded()), wanted)


def box(draws: list[float], scale: tuple, ratio: tuple) -> tuple[int, int, int, int]:
    """Top, left, height and width of one rectangle, written out."""
    area = (scale[0] + (scale[1] - scale[0]) * draws[0]) * HEIGHT * WIDTH
    aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    height = min(max(round(math.sqrt(area / aspect)), 1), HEIGHT)
    width = min(max(round(math.sqrt(area * aspect)), 1), WIDTH)
    return (
        int(draws[2] * (HEIGHT - height + 1)),
        int(draws[3] * (WIDTH - width + 1)),
        height,
        width,
    )


@pytest.mark.parametrize("size", [None, (6, 9), (20, 20)])
def test_resized_crop_cuts_a_rectangle_and_brings_it_to_size(size: tuple | None) -> None:
    scale, ratio = (0.05, 1.0), (0.4, 2.5)
    draws = torch.rand((4, NUM), generator=seeded()).T.tolist()

    def slow(row: int, image: torch.Tensor) -> torch.Tensor:
        top, left, height, width = box(draws[row], scale, ratio)
        part = image[:, top : top + height, left : left + width]
        return F.interpolate(part[None], size or (HEIGHT, WIDTH), mode="bilinear")[0]

    augment = augmentation([{"resized_crop": {"scale": scale, "ratio": ratio, "size": size}}])
    torch.testing.assert_close(augment(images(), seeded()), each(slow), rtol=1e-4, atol=1e-4)
    assert len({box(draw, scale, ratio) for draw in draws}) > 15


def test_erase_fills_a_rectangle_of_some_images_with_the_mean() -> None:
    scale, ratio = (0.02, 0.33), (0.3, 3.3)
    generator = seeded()
    chosen = torch.rand((1, NUM), generator=generator)[0].tolist()
    draws = torch.rand((4, NUM), generator=generator).T.tolist()

    def slow(row: int, image: torch.Tensor) -> torch.Tensor:
        if chosen[row] < 0.6:
            top, left, height, width = box(draws[row], scale, ratio)
            image[:, top : top + height, left : left + width] = 0
        return image

    augment = augmentation([{"erase": {"probability": 0.6}}])
    assert torch.equal(augment(images(), seeded()), each(slow))


def test_rotate_turns_every_image_around_its_middle() -> None:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import rotate

    drawn = torch.rand((1, NUM), generator=seeded())[0].tolist()
    wanted = each(
        lambda row, image: rotate(
            image, (1 - 2 * drawn[row]) * 30, interpolation=InterpolationMode.BILINEAR
        )
    )
    augment = augmentation([{"rotate": {"degrees": 30}}])
    torch.testing.assert_close(augment(images(), seeded()), wanted, rtol=1e-3, atol=1e-3)


ALL = ["crop", "flip", "resized_crop", "scale_crop", "erase", "rotate", "jitter"]


@pytest.mark.parametrize("name", ALL)
def test_augmentation_draws_from_its_generator_alone(name: str) -> None:
    augment, before, given = augmentation([name]), torch.get_rng_state(), images()
    one, same, other = (augment(given, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(given, images())  # what came in stays as it was
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ALL)
def test_what_is_drawn_does_not_depend_on_the_images(name: str) -> None:
    augment, one, other = augmentation([name]), seeded(), seeded()
    augment(images(1), one)
    augment(images(2), other)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_memory_format_and_dtype_are_kept(name: str, dtype: torch.dtype) -> None:
    given = images().to(dtype)
    last = given.to(memory_format=torch.channels_last)
    plain, other = (augmentation([name])(x, seeded()) for x in (given, last))
    assert plain.is_contiguous() and plain.dtype == dtype
    assert other.is_contiguous(memory_format=torch.channels_last) and not other.is_contiguous()
    torch.testing.assert_close(plain, other)


def test_augmentations_act_in_their_order() -> None:
    generator, given = seeded(), images()
    wanted = given
    for name in ALL:
        wanted = augmentation([name])(wanted, generator)
    assert torch.equal(augmentation(ALL)(given, seeded()), wanted)
    assert torch.equal(augmentation([])(given, seeded()), given)
    assert augmentation(["crop"])(given[:0], seeded()).shape == (0, *given.shape[1:])


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("crop", ValidationError, "a list of augmentations, got 'crop'"),
        ({"crop": {}}, ValidationError, "a list of augmentations"),
        ([{"name": "crpo"}], UnknownNameError, "'crpo'.*valid: crop, flip"),
        ([{"name": "crop", "pading": 4}], OptionError, r"takes the options \['padding'\].*pading"),
        ([{"name": "scale_crop", "size": 32}], ValidationError, r"size \(height, width\)"),
        ([{"name": "scale_crop", "scales": [2, 1]}], ValidationError, "scales.*rising"),
        ([{"jitter": {"contrast": 2}}], ValidationError, r"contrast in \[0, 1\], got 2"),
        ([{"jitter": {"brightness": -1}}], ValidationError, "brightness from 0, got -1"),
        (["crpo"], UnknownNameError, "'crpo'.*valid: crop, flip"),
        ([3], ValidationError, "a name or one name with its options, got 3"),
        ([{"crop": {}, "flip": {}}], ValidationError, "one name with its options"),
        ([{"crop": {"pading": 4}}], OptionError, r"takes the options \['padding'\].*pading"),
        ([{"crop": 4}], OptionError, "got 4"),
        ([{"crop": {"padding": 0}}], ValidationError, "padding.*got 0"),
        ([{"flip": {"probability": 2}}], ValidationError, r"probability in \[0, 1\], got 2"),
        ([{"erase": {"scale": (0.5, 0.1)}}], ValidationError, "scale.*rising"),
        ([{"erase": {"ratio": 3}}], ValidationError, "ratio.*got 3"),
        ([{"resized_crop": {"scale": (0.5, 1.1)}}], ValidationError, "at most 1"),
        ([{"resized_crop": {"size": (3,)}}], ValidationError, r"size \(height, width\)"),
        ([{"resized_crop": {"size": 32}}], ValidationError, r"size \(height, width\)"),
        ([{"rotate": {"degrees": -3}}], ValidationError, "degrees.*got -3"),
    ],
)
def test_a_wrong_spec_is_one_clear_error(spec: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        augmentation(spec)
    assert isinstance(caught.value, OfframpError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 4).byte(), {"a": torch.zeros(2, 3, 4, 4)}]
)
def test_what_is_no_batch_of_images_is_one_clear_error(given: Any) -> None:
    with pytest.raises(ValidationError, match="wanted images as floating-point"):
        augmentation(["flip"])(given, seeded())
