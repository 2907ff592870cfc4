"""From official splits to four parts: what is whose, and what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from offramp.data.images import ImageFiles, Images
from offramp.data.parts import Draw, Labelled, Official, assemble
from offramp.data.preprocess import Preprocess
from offramp.errors import DataError

from .layouts import encoded, noise

PREPROCESS = Preprocess((8, 8))
NAMES = ["ant", "bee"]


class Kept:
    """Images of one split, which remember how often they were read."""

    def __init__(self, split: str, num: int) -> None:
        self.split, self.num, self.asked = split, num, 0

    def __len__(self) -> int:
        return self.num

    def read(self, rows: Sequence[int]) -> list[bytes]:
        self.asked += len(rows)
        return [encoded(noise(f"{self.split}{row}")) for row in rows]

    def name(self, row: int) -> str:
        return f"{self.split}{row}"


def official(**sizes: int) -> Official:
    """Splits of so many images per class."""
    return Official(
        **{
            name: Labelled(Kept(name, 2 * num), torch.arange(2 * num) % 2)
            for name, num in sizes.items()
        }
    )


def sources(splits) -> list[tuple[str, int]]:
    """Whose images each part holds, and how many."""
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    return [(part.encoded.split, len(part)) for part in parts]


def draw(**options) -> Draw:
    return Draw(**{"in_memory": False, **options})


def test_all_parts_come_from_train_where_there_is_nothing_else() -> None:
    splits = assemble(official(train=100), NAMES, PREPROCESS, draw())
    assert sources(splits) == [("train", 130), ("train", 20), ("train", 20), ("train", 30)]
    rows = torch.cat([p.rows for p in (splits.train, splits.validation, splits.calibration)])
    assert sorted([*rows.tolist(), *splits.test.rows.tolist()]) == list(range(200))


def test_official_test_is_test_and_validation_is_drawn() -> None:
    splits = assemble(official(train=100, test=7), NAMES, PREPROCESS, draw())
    assert sources(splits) == [("train", 160), ("train", 20), ("train", 20), ("test", 14)]
    assert splits.test.rows.tolist() == list(range(14))


def test_a_lone_official_validation_is_test() -> None:
    splits = assemble(official(train=100, validation=7), NAMES, PREPROCESS, draw())
    assert sources(splits) == [("train", 160), ("train", 20), ("train", 20), ("validation", 14)]


def test_official_validation_is_validation_beside_a_test() -> None:
    given = official(train=100, validation=5, test=7)
    splits = assemble(given, NAMES, PREPROCESS, draw())
    assert sources(splits) == [("train", 180), ("validation", 10), ("train", 20), ("test", 14)]
    drawn = assemble(given, NAMES, PREPROCESS, draw(validation=0.3))
    assert sources(drawn) == [("train", 120), ("train", 60), ("train", 20), ("test", 14)]


def test_shares_are_as_asked() -> None:
    chosen = draw(validation=0.05, calibration=0.25, test=0.2)
    splits = assemble(official(train=100), NAMES, PREPROCESS, chosen)
    assert [num for _, num in sources(splits)] == [100, 10, 50, 40]


def test_images_that_are_not_taken_are_not_read() -> None:
    given = official(train=100, test=3)
    splits = assemble(given, NAMES, PREPROCESS, draw(images_per_class=2, in_memory=True))
    assert isinstance(splits.train, Images) and len(splits.train) == 4
    assert given.train.images.asked == 4 + 20 + 20  # type: ignore[attr-defined]
    untouched = official(train=100)
    assert isinstance(assemble(untouched, NAMES, PREPROCESS, draw()).test, ImageFiles)
    assert untouched.train.images.asked == 0  # type: ignore[attr-defined]


def test_images_that_do_not_fit_into_memory_stay_files(monkeypatch: pytest.MonkeyPatch) -> None:
    given = official(train=100)
    held = assemble(given, NAMES, PREPROCESS, Draw()).train
    assert isinstance(held, Images)
    monkeypatch.setattr("offramp.data.images._IN_MEMORY", 200 * 8 * 8 * 3 - 1)
    files = assemble(given, NAMES, PREPROCESS, Draw()).train
    assert isinstance(files, ImageFiles)
    assert torch.equal(held.raw([5]), files.raw([5]))


@pytest.mark.parametrize(
    ("given", "chosen", "message"),
    [
        (official(train=3), draw(), "wanted 4 images.*class 'ant' has 3"),
        (official(train=1, test=9), draw(), "wanted 3 images"),
        (official(train=9), draw(images_per_class=7), "images_per_class=7.*'ant' has 6"),
        (official(train=9), draw(validation=0.5, calibration=0.5), "something to learn from"),
        (official(train=9, test=0), draw(), "at least one image in the test part"),
        (
            Official(Labelled(Kept("train", 20), torch.zeros(20).long())),
            draw(),
            "class 'bee' has 0",
        ),
        (
            official(train=9)._replace(test=Labelled(Kept("test", 2), torch.tensor([0, 2]))),
            draw(),
            r"labels in 0\.\.1 in the test part, got 0\.\.2",
        ),
        (
            Official(Labelled(Kept("train", 20), torch.arange(20) % 2 - 1)),
            draw(),
            r"labels in 0\.\.1 in the train part, got -1\.\.0",
        ),
    ],
)
def test_what_cannot_be_split_says_so(given: Official, chosen: Draw, message: str) -> None:
    with pytest.raises(DataError, match=message):
        assemble(given, NAMES, PREPROCESS, chosen)
