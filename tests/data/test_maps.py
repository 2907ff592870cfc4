"""Images with maps as targets, in memory and in files: the same values, and -100 for void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from offramp.data import Legend, MapFiles, Maps, Pairs
from offramp.data.batches import open_data
from offramp.data.encoded import Paths
from offramp.data.preprocess import Preprocess
from offramp.errors import DataError

from .layouts import mask_of, noise

NUM = 20
SIZE = (12, 16)
PREPROCESS = Preprocess(SIZE)
LEGEND = Legend({0: 1, 1: 0, 2: 2, 255: 255})


@pytest.fixture
def files(tmp_path: Path) -> MapFiles:
    paths: tuple[list[Path], list[Path]] = ([], [])
    for i in range(NUM):
        for kind, made in enumerate((noise(str(i), SIZE), mask_of(str(i), SIZE))):
            paths[kind].append(tmp_path / f"{kind}-{i}.png")
            made.save(paths[kind][-1])
    pairs = Pairs(*[Paths(each) for each in paths])
    return MapFiles(pairs, torch.arange(NUM), PREPROCESS, LEGEND)


def wanted_target(row: int) -> list[list[int]]:
    becomes = {0: 1, 1: 0, 2: 2, 255: -100}
    return [[becomes[int(value)] for value in line] for line in np.asarray(mask_of(str(row), SIZE))]


def test_items_are_the_image_and_its_classes(files: MapFiles) -> None:
    for row in (0, 7, NUM - 1):
        inputs, target = files[row]
        assert torch.equal(inputs, PREPROCESS(noise(str(row), SIZE)))
        assert target.dtype == torch.long and target.tolist() == wanted_target(row)


def test_maps_in_memory_are_those_of_the_files(files: MapFiles) -> None:
    done: list[int] = []
    held = files.decoded(done.append)
    assert isinstance(held, Maps) and sum(done) == NUM == len(held) == len(files)
    rows = torch.tensor([4, 0, 18, 4])
    inputs, targets = held.batch(rows)
    assert inputs.dtype == torch.float32 and targets.dtype == torch.long
    for i, row in enumerate(rows.tolist()):
        for one, other, third in zip((inputs[i], targets[i]), files[row], held[row], strict=True):
            assert torch.equal(one, other) and torch.equal(one, third)
    assert torch.equal(held.raw(rows), files.raw(rows))
    assert torch.equal(PREPROCESS.display(inputs), held.raw(rows))
    assert held.masks.dtype == torch.uint8 and torch.equal(held.masks, files.masks)
    assert int(held.masks.max()) == 255  # what came out has not been changed


@pytest.mark.parametrize("rows", [[3, 1], torch.arange(NUM) % 2 == 1])
def test_a_part_keeps_its_rows(files: MapFiles, rows) -> None:
    chosen = [3, 1] if isinstance(rows, list) else list(range(1, NUM, 2))
    for whole in (files, files.decoded()):
        part = whole.take(rows)
        assert type(part) is type(whole) and len(part) == len(chosen)
        assert part[1][1].tolist() == wanted_target(chosen[1])
        assert torch.equal(part.raw([0, 1]), whole.raw(chosen[:2]))
        assert torch.equal(part.take([1])[0][0], whole[chosen[1]][0])


def test_maps_are_read_by_the_batch_and_files_by_a_loader_with_workers(files: MapFiles) -> None:
    batches = list(DataLoader(files, batch_size=8, num_workers=1))
    inputs, targets = files.decoded().batch(torch.arange(NUM))
    assert torch.equal(torch.cat([each[0] for each in batches]), inputs)
    assert torch.equal(torch.cat([each[1] for each in batches]), targets)
    source = open_data(files.decoded(), 8)
    assert source.rows == NUM and source.steps == 3
    assert torch.equal(torch.cat([rows.target for rows in source.batches(None)]), targets)
    assert not hasattr(files, "batch")  # so that workers read them


def test_parts_that_do_not_fit_together_say_so() -> None:
    pixels = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    masks = torch.zeros(2, *SIZE, dtype=torch.uint8)
    with pytest.raises(
        DataError, match=r"pixels torch\.uint8 \(2, 3, 12, 16\), got torch\.float32"
    ):
        Maps(pixels.float(), masks, PREPROCESS)
    with pytest.raises(DataError, match=r"\(1, 3, 12, 16\), got torch\.uint8 \(2, 3"):
        Maps(pixels, masks[:1], PREPROCESS)
    with pytest.raises(DataError, match=r"masks torch\.uint8 \(2, 12, 16\), got torch\.int64"):
        Maps(pixels, masks.long(), PREPROCESS)
    with pytest.raises(DataError, match=r"masks torch\.uint8 \(2, 12, 16\), got .*\(2, 16, 12\)"):
        Maps(pixels, masks.mT, PREPROCESS)


def test_a_damaged_file_is_named(files: MapFiles) -> None:
    Path(files.pairs.masks.name(17)).write_bytes(b"no mask")
    assert files[16][1].shape == SIZE
    by_workers = [
        lambda num=num: list(open_data(files, 8, workers=num).batches(None)) for num in (0, 1)
    ]
    for read in (lambda: files[17], files.decoded, lambda: files.take([17]).masks, *by_workers):
        with pytest.raises(DataError, match=r"1-17\.png: no known image format") as caught:
            read()
        assert "\n" not in str(caught.value)
