"""Pictures of test inputs: some of every label at every exit, the same ones every time."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.runs.colours import class_colours
from offramp.runs.samples import draw_samples
from offramp.types import Records


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def labelled(num: int, classes: int, exits: int, common: float = 0.0) -> tuple[Any, ...]:
    """Inputs whose pixels tell their row, their records, and exits at one budget."""
    draw = torch.Generator().manual_seed(num + classes + exits)
    labels = torch.randint(classes, (num,), generator=draw)
    labels[torch.rand(num, generator=draw) < common] = 0
    left = torch.randint(exits, (num,), generator=draw)
    rows = torch.arange(num)
    inputs = torch.stack([rows // 256, rows % 256], 1)[:, None, None].float()  # [N, 1, 1, 2]
    inputs = torch.cat([inputs, torch.tensor([0.0, 255.0]).expand(num, 1, 1, 2)], 2)
    logits = torch.randn(exits, num, classes, generator=draw)
    return (inputs, labels), Records.from_arrays(logits, labels), left


def drawn_rows(samples: dict[str, Any]) -> list[int]:
    pixels = [np.asarray(opened(image)) for image in samples["images"]]
    return [256 * int(each[0, 0]) + int(each[0, 1]) for each in pixels]


def in_turn(rows: list[int], labels: list[int], most: int) -> list[int]:
    """Round after round, the first row left of each label."""
    taken: list[int] = []
    while rows and len(taken) < most:
        seen: set[int] = set()
        later = []
        for row in rows:
            if labels[row] in seen or len(taken) == most:
                later.append(row)
            else:
                seen.add(labels[row])
                taken.append(row)
        rows = later
    return taken


@pytest.mark.parametrize(
    ("num", "classes", "exits", "most"),
    [(900, 10, 3, 30), (700, 100, 4, 60), (500, 2, 3, 12), (400, 10, 30, 12), (9, 5, 3, 15)],
)
def test_labels_take_turns_at_every_exit(num: int, classes: int, exits: int, most: int) -> None:
    data, records, left = labelled(num, classes, exits, common=0.5)
    samples = draw_samples(data, records, [("p", [left])])
    assert samples is not None
    wanted = []
    for k in range(exits):
        rows = (left == k).nonzero().squeeze(1)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        wanted += in_turn(rows[order].tolist(), records.targets.tolist(), most)
    rows = drawn_rows(samples)
    assert rows == sorted(wanted)
    assert samples["labels"] == records.targets[rows].tolist()
    assert samples["exits"] == {"p": [left[rows].tolist()]}
    assert samples["answers"] == [each.argmax(1)[rows].tolist() for each in records.logits]
    assert len(rows) <= max(240, 12 * exits)


def test_several_of_every_label_are_drawn_where_they_leave() -> None:
    data, records, left = labelled(900, 10, 3, common=0.5)
    samples = draw_samples(data, records, [("p", [left])])
    assert samples is not None
    pairs = zip(samples["labels"], samples["exits"]["p"][0], strict=True)
    assert set(Counter(pairs).values()) == {3}
    assert draw_samples(data, records, [("p", [left])]) == samples


def test_labels_that_do_not_count_are_drawn_like_another() -> None:
    data, records, left = labelled(200, 3, 2)
    targets = records.targets.clone()
    targets[::2] = -100
    records = Records.from_arrays(torch.stack(list(records.logits)), targets)
    samples = draw_samples(data, records, [("p", [left])])
    assert samples is not None
    assert samples["labels"] == targets[drawn_rows(samples)].tolist()
    pairs = Counter(zip(samples["exits"]["p"][0], samples["labels"], strict=True))
    assert len(pairs) == 8 and set(pairs.values()) == {3}


def test_maps_of_more_classes_than_a_palette_have_the_colours_of_their_legend() -> None:
    targets = torch.tensor([[[0, 299], [-100, 7]]])
    logits = torch.zeros(1, 1, 300, 2, 2)
    logits[0, 0, 256] = 1
    data = (torch.rand(1, 3, 2, 2), targets)
    samples = draw_samples(data, Records.from_arrays(logits, targets), [("p", [torch.zeros(1)])])
    assert samples is not None
    colours = class_colours([str(number) for number in range(300)])
    shown = np.asarray(opened(samples["targets"][0]))
    assert shown[0, 1].tolist() == [*colours[299], 255] and shown[1, 0, 3] == 0
    assert shown[1, 1].tolist() == [*colours[7], 255]
    assert np.asarray(opened(samples["answers"][0][0]))[0, 0].tolist() == [*colours[256], 255]
