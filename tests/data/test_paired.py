"""Maps of targets move with their images: against slow loops, and in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import offramp
from offramp.data import Maps, Preprocess, augmentation
from offramp.data.augment_steps import STEPS
from offramp.errors import ValidationError
from offramp.heads import DenseHead
from offramp.model import MultiExitModel

NUM, HEIGHT, WIDTH = 24, 10, 14
VOID = -100


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose pixels say where they are, (row, column, 1), and the same as one number.

    Wherever a pixel is brought, its value and its target must name the same place.
    """
    row, column = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    images = torch.stack([row, column, torch.ones_like(row)]).float().expand(NUM, -1, -1, -1)
    return images.contiguous(), (row * WIDTH + column).expand(NUM, -1, -1).contiguous()


def drawn(count: int) -> list[list[float]]:
    return torch.rand((count, NUM), generator=seeded()).T.tolist()


def each(move: Callable[[int, torch.Tensor, torch.Tensor], Any]) -> tuple[torch.Tensor, ...]:
    """One image after another, with its map."""
    pairs = zip(*places(), strict=True)
    moved = [move(row, image.clone(), target.clone()) for row, (image, target) in enumerate(pairs)]
    return tuple(torch.stack(part) for part in zip(*moved, strict=True))


def check(spec: list[Any], wanted: tuple[torch.Tensor, ...], tolerance: float = 0.0) -> None:
    images, target = augmentation(spec).paired(*places(), seeded())
    assert torch.equal(target, wanted[1])
    torch.testing.assert_close(images, wanted[0], rtol=0, atol=tolerance)


def test_flip_mirrors_both() -> None:
    chance = drawn(1)
    check(
        [{"flip": {"probability": 0.4}}],
        each(lambda n, *both: [part.flip(-1) if chance[n][0] < 0.4 else part for part in both]),
    )


def test_crop_moves_both_and_counts_nothing_outside() -> None:
    moves = torch.randint(7, (2, NUM), generator=seeded()).tolist()

    def slow(n: int, image: torch.Tensor, target: torch.Tensor) -> Any:
        moved, targets = torch.zeros_like(image), torch.full_like(target, VOID)
        for y in range(HEIGHT):
            for x in range(WIDTH):
                at = y + moves[0][n] - 3, x + moves[1][n] - 3
                if 0 <= at[0] < HEIGHT and 0 <= at[1] < WIDTH:
                    moved[:, y, x], targets[y, x] = image[:, at[0], at[1]], target[at]
        return moved, targets

    check([{"crop": {"padding": 3}}], each(slow))


def nearest(target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resized to the nearest, in whole numbers."""
    high, wide = target.shape
    out = torch.empty(size, dtype=torch.long)
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = (2 * y + 1) * high // (2 * size[0]), (2 * x + 1) * wide // (2 * size[1])
            out[y, x] = target[row, column]
    return out


@pytest.mark.parametrize("size", [None, (6, 9), (20, 20)])
def test_resized_crop_cuts_both_alike(size: tuple[int, int] | None) -> None:
    chance, scale, ratio = drawn(4), (0.05, 1.0), (0.4, 2.5)

    def slow(n: int, image: torch.Tensor, target: torch.Tensor) -> Any:
        area = (scale[0] + (scale[1] - scale[0]) * chance[n][0]) * HEIGHT * WIDTH
        wide = math.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * chance[n][1])
        high = min(max(round(math.sqrt(area / wide)), 1), HEIGHT)
        wide = min(max(round(math.sqrt(area * wide)), 1), WIDTH)
        top, left = int(chance[n][2] * (HEIGHT - high + 1)), int(chance[n][3] * (WIDTH - wide + 1))
        inside = (..., slice(top, top + high), slice(left, left + wide))
        out = size or (HEIGHT, WIDTH)
        resized = F.interpolate(image[inside][None], out, mode="bilinear")[0]
        return resized, nearest(target[inside], out)

    spec = {"name": "resized_crop", "scale": scale, "ratio": ratio, "size": size}
    check([spec], each(slow), 1e-4)


@pytest.mark.parametrize("size", [None, (6, 9), (25, 8), (40, 40)])
@pytest.mark.parametrize("scales", [(0.5, 2.0), (1.0, 1.0), (0.05, 0.3)])
def test_scale_crop_scales_both_and_cuts_or_pads(
    size: tuple[int, int] | None, scales: tuple[float, float]
) -> None:
    chance, kinds = drawn(3), set()

    def start(length: int, out: int, share: float) -> int:
        """Of the window on an axis; below 0 where the axis is the shorter."""
        kinds.add((length > out) - (length < out))
        if length < out:
            return -int(share * (out - length + 1))
        return int(share * (length - out + 1))

    def slow(n: int, image: torch.Tensor, target: torch.Tensor) -> Any:
        factor = scales[0] + (scales[1] - scales[0]) * chance[n][0]
        full = max(1, round(factor * HEIGHT)), max(1, round(factor * WIDTH))
        out = size or (HEIGHT, WIDTH)
        large = F.interpolate(image[None], full, mode="bilinear")[0]
        classes = nearest(target, full)
        top, left = start(full[0], out[0], chance[n][1]), start(full[1], out[1], chance[n][2])
        moved, targets = torch.zeros(3, *out), torch.full(out, VOID)
        for y in range(out[0]):
            for x in range(out[1]):
                if 0 <= y + top < full[0] and 0 <= x + left < full[1]:
                    moved[:, y, x] = large[:, y + top, x + left]
                    targets[y, x] = classes[y + top, x + left]
        return moved, targets

    check([{"name": "scale_crop", "scales": scales, "size": size}], each(slow), 1e-4)
    if size is None and scales[1] == 2:
        assert kinds == {-1, 0, 1}


def test_rotate_turns_both() -> None:
    chance = drawn(1)

    def slow(n: int, image: torch.Tensor, target: torch.Tensor) -> Any:
        angle = math.radians(20) * (2 * chance[n][0] - 1)
        moved, targets = torch.zeros_like(image), torch.full_like(target, VOID)
        for y in range(HEIGHT):
            for x in range(WIDTH):
                down, right = y - (HEIGHT - 1) / 2, x - (WIDTH - 1) / 2
                at = (
                    math.cos(angle) * down - math.sin(angle) * right + (HEIGHT - 1) / 2,
                    math.sin(angle) * down + math.cos(angle) * right + (WIDTH - 1) / 2,
                )
                row, column = math.floor(at[0] + 0.5), math.floor(at[1] + 0.5)
                if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                    targets[y, x] = target[row, column]
                for i in (math.floor(at[0]), math.floor(at[0]) + 1):
                    for j in (math.floor(at[1]), math.floor(at[1]) + 1):
                        if 0 <= i < HEIGHT and 0 <= j < WIDTH:
                            share = (1 - abs(at[0] - i)) * (1 - abs(at[1] - j))
                            moved[:, y, x] += share * image[:, i, j]
        return moved, targets

    check([{"rotate": {"degrees": 20}}], each(slow), 1e-3)


def test_erase_counts_nothing_where_it_hides() -> None:
    images, target = augmentation([{"erase": {"probability": 0.7}}]).paired(*places(), seeded())
    hidden = images[:, 2] == 0
    assert torch.equal(target == VOID, hidden) and 0.02 < float(hidden.float().mean()) < 0.4
    assert torch.equal(target[~hidden], places()[1][~hidden])


def test_jitter_moves_nothing_and_changes_every_image() -> None:
    given = torch.randn(NUM, 3, HEIGHT, WIDTH, generator=seeded(1))
    target = places()[1]
    strong = {"brightness": 0.5, "contrast": 0.4, "saturation": 0.3}
    found, same = augmentation([{"jitter": strong}]).paired(given, target, seeded())
    assert torch.equal(same, target)
    chance = drawn(3)
    for n in range(NUM):
        light, spread, colour = (2 * share - 1 for share in chance[n])
        gray = given[n].mean(0, keepdim=True)
        wanted = gray + (given[n] - gray) * (1 + 0.3 * colour)
        middle = wanted.mean()
        wanted = middle + (wanted - middle) * (1 + 0.4 * spread) + 0.5 * light
        torch.testing.assert_close(found[n], wanted)
        assert not torch.allclose(found[n], given[n])


@pytest.mark.parametrize("name", sorted(STEPS))
def test_value_and_target_name_the_same_place_wherever_they_are_brought(name: str) -> None:
    """In every augmentation, one after another too: half a pixel each is what sampling may err."""
    if name in ("erase", "jitter"):
        return
    for spec in ([name], [name, "flip", name]):
        for seed in range(3):
            images, target = augmentation(spec).paired(*places(), seeded(seed))
            # bilinear weights sum to less than 1 where the mean was mixed in
            whole = (target != VOID) & ((images[:, 2] - 1).abs() < 1e-4)
            assert whole.float().mean() > 0.2
            where = torch.stack([target // WIDTH, target % WIDTH], 1).float()
            apart = (images[:, :2] - where).abs().amax(1)[whole]
            assert float(apart.max()) <= 0.5 * len(spec) + 1e-3


@pytest.mark.parametrize("name", sorted(STEPS))
def test_images_are_the_same_with_targets_and_without(name: str) -> None:
    images, target = places()
    before = torch.get_rng_state()
    augment = augmentation([name, "flip"])
    one, labels = augment.paired(images, torch.arange(NUM), seeded())
    assert torch.equal(labels, torch.arange(NUM))
    two, maps = augment.paired(images, target, seeded())
    three, again = augment.paired(images, target, seeded())
    assert torch.equal(one, augment(images, seeded()))
    assert torch.equal(one, two) and torch.equal(two, three) and torch.equal(maps, again)
    assert maps.dtype == torch.long and maps.shape == (NUM, *two.shape[2:])
    other, elsewhere = augment.paired(images, target, seeded(8))
    assert not torch.equal(two, other)
    assert name == "jitter" or not torch.equal(maps, elsewhere)
    for came, now in zip((images, target), places(), strict=True):
        assert torch.equal(came, now)  # what came in stays as it was
    assert torch.equal(before, torch.get_rng_state())


def test_maps_of_another_size_are_one_clear_error() -> None:
    images, target = places()
    for wrong in (target[:, :5], target[:3], target[:, None]):
        with pytest.raises(ValidationError, match=r"as large as the images .*\(24, 10, 14\), got"):
            augmentation(["flip"]).paired(images, wrong, seeded())


def test_maps_of_bytes_count_nothing_outside_either() -> None:
    images, target = places()
    for name in ("crop", "scale_crop", "erase", "rotate"):
        _, found = augmentation([name]).paired(images, target.byte(), seeded())
        assert found.dtype == torch.long and int(found.min()) == VOID
        assert torch.equal(found, augmentation([name]).paired(images, target, seeded())[1])


# ------------------------------------------------------------------------ in training
def maps(num: int = 12) -> Maps:
    generator = seeded(0)
    pixels = torch.randint(256, (num, 3, 8, 12), dtype=torch.uint8, generator=generator)
    masks = torch.randint(3, (num, 8, 12), dtype=torch.uint8, generator=generator)
    masks[:, 0] = 255
    return Maps(pixels, masks, Preprocess((8, 12)))


def dense() -> MultiExitModel:
    torch.manual_seed(0)
    segments = [nn.Conv2d(3, 6, 5, padding=2), nn.Conv2d(6, 6, 3, padding=1)]
    return MultiExitModel(segments, [DenseHead(6, 3), DenseHead(6, 3)])


def weights(data: Any, augment: Any) -> list[torch.Tensor]:
    model = dense()
    offramp.fit(model, data, epochs=2, batch_size=5, lr=0.05, augment=augment, progress=False)
    return [parameter.detach() for parameter in model.parameters()]


class Spy:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.inner = augmentation(["flip", {"name": "scale_crop", "size": [6, 6]}])

    def __call__(self, inputs: Any, generator: torch.Generator) -> Any:
        raise AssertionError("asked for inputs alone")

    def paired(self, inputs: Any, target: torch.Tensor, generator: torch.Generator) -> Any:
        self.seen.append(tuple(target.shape))
        return self.inner.paired(inputs, target, generator)


def test_training_moves_targets_with_inputs_and_validation_is_not_augmented() -> None:
    spy, model = Spy(), dense()
    offramp.fit(
        model, maps(), epochs=1, batch_size=5, augment=spy, validation=maps(7), progress=False
    )
    assert spy.seen == [(5, 8, 12), (5, 8, 12), (2, 8, 12)]
    one, same = (weights(maps(), augmentation(["flip", "scale_crop"])) for _ in range(2))
    plain = weights(maps(), None)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, plain, strict=True))


def test_training_learns_what_moved_together() -> None:
    """The class is the brightest channel of a pixel: moved apart, nothing could be learnt."""
    data = maps(16)
    rows = torch.randint(3, (16, 4, 6), generator=seeded(3))
    masks = rows.repeat_interleave(2, 1).repeat_interleave(2, 2)
    pixels = (200 * F.one_hot(masks, 3).permute(0, 3, 1, 2)).byte()
    data = Maps(pixels, masks.byte(), Preprocess((8, 12)))
    history = offramp.fit(
        dense(),
        data,
        epochs=25,
        batch_size=8,
        lr=0.2,
        augment=augmentation(["crop", "flip"]),
        progress=False,
    )
    assert history[-1]["accuracy"][-1] > 0.9


def mirrored(inputs: Any, generator: torch.Generator) -> Any:
    return inputs.flip(3)


def test_an_augment_that_leaves_maps_where_they_are_is_refused_at_the_door() -> None:
    said = r"paired\(inputs, target, generator\).*\(1, 8, 12\).*got mirrored"
    model = dense()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValidationError, match=said):
        offramp.fit(model, maps(), epochs=1, augment=mirrored, progress=False)
    with pytest.raises(ValidationError, match=said):
        phases = [{"epochs": 1}, {"epochs": 1, "augment": mirrored}]
        offramp.fit(model, maps(), phases=phases, progress=False)
    loader = DataLoader(maps(), batch_size=4)  # its first batch is the first that can be seen
    with pytest.raises(ValidationError, match=r"\(4, 8, 12\).*got mirrored"):
        offramp.fit(model, loader, epochs=1, augment=mirrored, progress=False)
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_labels_do_not_need_a_paired_augment() -> None:
    model = offramp.create_model("resnet_cifar", depth=8, num_classes=3)
    data = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    offramp.fit(model, data, epochs=1, augment=mirrored, progress=False)
