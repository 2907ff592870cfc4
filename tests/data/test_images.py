"""Images in memory and in files: the same values, and damaged files by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from offramp.data.batches import open_data
from offramp.data.encoded import Paths, decode_all, progress
from offramp.data.images import ImageFiles, Images, fit_in_memory
from offramp.data.preprocess import Preprocess
from offramp.errors import DataError

from .layouts import encoded, noise

PREPROCESS = Preprocess((5, 7), 9)


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    paths = []
    for i in range(6):
        kind = ("PNG", "BMP", "WEBP")[i % 3]
        paths.append(tmp_path / f"{i}.{kind.lower()}")
        noise(str(i), (12 + i, 10)).save(paths[-1], kind)
    return ImageFiles(Paths(paths), torch.arange(6), torch.arange(6) % 2, PREPROCESS)


def test_items_are_the_preprocessed_images(files: ImageFiles) -> None:
    from PIL import Image

    for row in range(6):
        if row % 3 < 2:  # WEBP loses something
            wanted = PREPROCESS(noise(str(row), (12 + row, 10)))
        else:
            wanted = PREPROCESS(Image.open(files.encoded.name(row)))
        inputs, target = files[row]
        assert torch.equal(inputs, wanted) and target == row % 2


def test_images_in_memory_are_those_of_the_files(files: ImageFiles) -> None:
    held = files.decoded()
    assert isinstance(held, Images) and held.pixels.dtype == torch.uint8
    rows = torch.tensor([4, 0, 4])
    inputs, targets = held.batch(rows)
    for i, row in enumerate(rows.tolist()):
        assert torch.equal(inputs[i], files[row][0]) and torch.equal(held[row][0], inputs[i])
        assert int(targets[i]) == files[row][1]
    assert torch.equal(held.raw(rows), files.raw(rows))
    assert torch.equal(PREPROCESS.display(inputs), held.raw(rows))
    assert len(held) == len(files) == 6


@pytest.mark.parametrize("rows", [[3, 1], torch.tensor([False, True, False, True, False, False])])
def test_a_part_keeps_its_rows(files: ImageFiles, rows) -> None:
    chosen = [3, 1] if isinstance(rows, list) else [1, 3]
    for whole in (files, files.decoded()):
        part = whole.take(rows)
        assert type(part) is type(whole) and len(part) == 2
        assert part.targets.tolist() == [row % 2 for row in chosen]
        assert torch.equal(part.raw([0, 1]), whole.raw(chosen))
        again = part.take([1])
        assert torch.equal(again[0][0], whole[chosen[1]][0])


def test_a_loader_with_workers_reads_the_files(files: ImageFiles) -> None:
    batches = list(DataLoader(files, batch_size=4, num_workers=1))
    assert torch.equal(
        torch.cat([inputs for inputs, _ in batches]), files.decoded().batch(torch.arange(6))[0]
    )
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 1, 0, 1, 0, 1]


def test_images_are_read_by_the_batch(files: ImageFiles) -> None:
    source = open_data(files.decoded(), 4)
    assert source.rows == 6 and source.steps == 2
    parts = [part for data in (files, files.decoded()) for part in open_data(data, 4).batches(None)]
    for one, other in zip(parts[:2], parts[2:], strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.target, other.target)


def damaged(folder: Path, what: str) -> Path:
    file, content = folder / "cat.png", encoded(noise("cat", (30, 30)))
    middle = len(content) // 2
    broken = {
        "missing": None,
        "empty": b"",
        "truncated": content[:middle],
        "text": b"not an image at all",
        "other": content[:8] + b"garbage" * 9,
        "flipped": content[:middle] + bytes(64) + content[middle + 64 :],
    }[what]
    if broken is not None:
        file.write_bytes(broken)
    return file


@pytest.mark.parametrize("what", ["missing", "empty", "truncated", "text", "other", "flipped"])
def test_a_damaged_image_is_named(tmp_path: Path, what: str) -> None:
    good = tmp_path / "good.png"
    noise("good").save(good)
    paths = Paths([good, damaged(tmp_path, what)])
    images = ImageFiles(paths, torch.arange(2), torch.arange(2), PREPROCESS)
    assert images[0][0].shape == (3, 5, 7)
    for read in (lambda: images[1], images.decoded, lambda: images.raw([0, 1])):
        with pytest.raises(DataError, match=r"image .*cat\.png") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    noise("bar", (2, 900)).save(tmp_path / "bar.png")
    with pytest.raises(DataError, match=r"bar\.png: wanted an image with sides"):
        decode_all(Paths([tmp_path / "bar.png"]), torch.tensor([0]), PREPROCESS)


def test_parts_that_do_not_fit_together_say_so() -> None:
    pixels, targets = torch.zeros(3, 3, 5, 7, dtype=torch.uint8), torch.arange(3)
    with pytest.raises(DataError, match=r"uint8 \(2, 3, 5, 7\), got .*\(3, 3, 5, 7\)"):
        Images(pixels, targets[:2], PREPROCESS)
    with pytest.raises(DataError, match=r"got torch.float32"):
        Images(pixels.float(), targets, PREPROCESS)
    with pytest.raises(DataError, match="class numbers"):
        Images(pixels, targets.float(), PREPROCESS)
    with pytest.raises(DataError, match="one target per row, got 3 and 2"):
        ImageFiles(Paths("abc"), torch.arange(3), targets[:2], PREPROCESS)


def test_two_gigabytes_are_the_most_that_is_held() -> None:
    size = Preprocess((100, 100), mean=(0.0,), std=(1.0,), mode="L")
    assert fit_in_memory(200_000, size) and not fit_in_memory(200_001, size)


def test_progress_says_nothing_where_no_one_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10_000) as advance:
        advance(10_000)
    assert capsys.readouterr() == ("", "")
