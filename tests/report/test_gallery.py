"""Pictures of maps: image, target and answer of the exit that each leaves at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from offramp.report import write

from .made_up import HOSTILE, made_up
from .test_page import Page, page


def small(**changes: Any) -> dict[str, Any]:
    given = {"pictures": 6, "side": 4, "budgets": (0.4, 0.5, 0.8), "task": "map"} | changes
    return made_up(**given)


def test_maps_stand_at_the_exit_they_leave_by_with_its_answer(tmp_path: Path) -> None:
    run = small()
    samples = run["samples"]
    text = write([run], tmp_path / "p.html").read_text("utf-8")
    exits = samples["exits"]["max_prob"][1]
    found = {
        int(i): (int(k), drawn)
        for k, part in zip(*[iter(re.split(r'data-exit="(\d+)"', text)[1:])] * 2, strict=True)
        for i, drawn in re.findall(r'<figure data-i="(\d+)">(.*?)</figure>', part)
    }
    assert sorted(found) == list(range(6))
    for i, (k, drawn) in found.items():
        assert k == exits[i]
        shown = re.findall(r'<img src="(\S+?)" [^>]*?(hidden)?>', drawn)
        own = [(each[i], "" if a == k else "hidden") for a, each in enumerate(samples["answers"])]
        assert shown == [(samples["images"][i], ""), (samples["targets"][i], ""), *own]


def test_every_picture_of_maps_is_in_the_page_once(tmp_path: Path) -> None:
    samples = (run := small())["samples"]
    made = page(tmp_path, run)
    given = [
        *samples["images"],
        *samples["targets"],
        *(a for row in samples["answers"] for a in row),
    ]
    assert sorted(str(a["src"]) for a in made.having("src")) == sorted(given)
    assert "data:image" not in made.raw["script"][0]
    assert {str(a["alt"]) for a in made.having("data-answer", "2")} == {"answer of exit 2"}


def test_legend_names_the_colours_of_classes(tmp_path: Path) -> None:
    run = small(classes=HOSTILE)
    text = write([run], tmp_path / "p.html").read_text("utf-8")
    listed = Page(text.partition('class="of-study pictures maps"')[2].partition("data-exit")[0])
    colours = [str(a["fill"]) for a in listed.having("fill")]
    assert colours[:10] == run["samples"]["colours"]
    assert "cat" in listed.words and "${title} $body %s {0}" in listed.words
    assert listed.words[listed.words.index("does not count") - 1] == HOSTILE[-1]
    assert [tag for tag, _ in Page(text).elements].count("script") == 2


def test_classes_beyond_those_with_names_have_numbers(tmp_path: Path) -> None:
    run = small(classes=["sky", "road"])
    run["samples"]["colours"].append("#ABCDEF")
    text = write([run], tmp_path / "p.html").read_text("utf-8")
    assert 'fill="#ABCDEF"></rect></svg>class 2</li>' in text


@pytest.mark.parametrize(("classes", "folded"), [(40, False), (41, True)])
def test_long_legends_are_folded(classes: int, folded: bool, tmp_path: Path) -> None:
    made = page(tmp_path, small(classes=[f"c{number}" for number in range(classes)], pictures=1))
    assert (f"{classes} classes" in made.words) == folded


def test_maps_of_several_studies_are_each_their_own(tmp_path: Path) -> None:
    runs = [small(name=name, pictures=num) for name, num in (("a", 2), ("b", 3))]
    text = write(runs, tmp_path / "p.html").read_text("utf-8")
    parts = text.split('class="of-study pictures maps" data-study="')[1:]
    assert [part[0] for part in parts] == ["0", "1"]
    assert [part.count("<figure data-i=") for part in parts] == [2, 3]
    assert [part.count("does not count</li>") for part in parts] == [1, 1]


def test_words_on_the_pictures_are_those_of_their_kind(tmp_path: Path) -> None:
    maps, labels = page(tmp_path, small()).text, page(tmp_path, small(task="label")).text
    assert "its target, and the answer of the exit at which it leaves" in maps
    assert "dashed frame" in labels and "dashed frame" not in maps
    assert "does not count" not in labels
