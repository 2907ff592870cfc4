"""Studies side by side: pairs of seeds, and nothing that cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offramp.errors import ReportError
from offramp.report import compare
from offramp.report.interval import t_interval
from offramp.report.schema import read_runs
from offramp.report.study import gather

from .made_up import made_up


def small(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return made_up(seed=seed, pictures=0, **changes)


def put(folder: Path, objective: str, **changes: Any) -> Path:
    """A run with its configuration, as `offramp eval` leaves it."""
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(small(**changes)), "utf-8")
    config = f"model: {{name: msdnet}}\ntrain: {{epochs: 1}}\nobjective: {objective}\n"
    (folder / "config.yaml").write_text(config, "utf-8")
    return folder


def test_gains_are_taken_seed_by_seed() -> None:
    first = [small(seed, name="a") for seed in (0, 1, 2, 5)]
    other = [small(seed, name="b", gain=0.01) for seed in (2, 0, 1)]
    compared = compare([*first, *other])
    scheme = compared.schemes[1]
    assert (scheme.seeds, scheme.shared) == ([0, 1, 2], [0, 1, 2])
    for k, score in enumerate(scheme.exits):
        pairs = [(other[n]["exits"][k]["top1"], first[s]["exits"][k]["top1"]) for n, s in
                 ((1, 0), (2, 1), (0, 2))]  # fmt: skip
        gains = [own - base for own, base in pairs]
        assert score.gains == gains
        assert score.gain == pytest.approx(sum(gains) / 3)
        assert score.interval == t_interval(gains)
        assert score.better == sum(gain > 0 for gain in gains)
        assert score.spread.mean == pytest.approx(sum(own for own, _ in pairs) / 3)
        assert (score.spread.low, score.spread.high) == (min(score.values), max(score.values))


def test_one_shared_seed_has_a_gain_and_no_interval() -> None:
    compared = compare([small(0, name="a"), small(1, name="a"), small(1, name="b")])
    score = compared.schemes[1].exits[0]
    assert len(score.gains) == 1 and score.interval is None
    apart = compare([small(0, name="a"), small(1, name="b")]).schemes[1]
    assert apart.shared == [] and apart.exits[0].gain is None


def test_baseline_is_the_first_or_the_one_that_is_named() -> None:
    runs = [small(name="a"), small(name="b")]
    assert compare(runs).baseline == 0
    assert compare(runs, baseline="b").to_dict()["baseline"] == "b"
    with pytest.raises(ReportError, match="wanted the baseline as the name of a study, a; b; got"):
        compare(runs, baseline="c")


def test_maps_are_compared_by_miou() -> None:
    runs = [small(name=name, task="map") for name in "ab"]
    compared = compare(runs)
    assert compared.measure == "mIoU"
    assert compared.schemes[0].exits[2].values == [runs[0]["exits"][2]["miou"]]
    point = compared.to_dict()["schemes"][0]["curves"]["max_prob"][0]
    assert point["miou"] == runs[0]["curves"]["max_prob"][0]["miou"]


def test_map_without_miou_is_refused() -> None:
    run = small(task="map")
    run["exits"][1]["miou"] = None
    with pytest.raises(ReportError, match=r"run 0: exits\.1\.miou: wanted a number"):
        read_runs([run])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exits": 5}, "exits: wanted 4, as run 0 has it, got 5"),
        ({"task": "map"}, "task: wanted 'label', as run 0 has it, got 'map'"),
        ({"classes": ["x"] * 10}, "classes: wanted "),
    ],
)
def test_studies_that_are_not_comparable_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ReportError, match=f"run 1: {said}"):
        compare([small(name="a"), small(name="b", **changes)])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_test", 1000, r"test inputs: wanted \[2000\].*got \[1000\]"),
        ("made", {"data": "cifar10"}, "data: wanted .*got 'cifar10'"),
    ],
)
def test_other_data_are_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(ReportError, match=f"run 1: {said}"):
        compare([small(name="a"), small(name="b") | {key: value}])
    assert len(compare([small(name="a"), small(name="b") | {"made": {}}]).schemes) == 2


def test_runs_of_one_recipe_are_named_by_their_objective(tmp_path: Path) -> None:
    joint = put(tmp_path / "a", "{name: joint}")
    overlap = put(tmp_path / "b", "{name: block_dependent, overlap: 3, final: true}")
    names = [study.name for study in gather(read_runs([joint, overlap]))]
    assert names == ["joint", "block_dependent, overlap 3, final"]
    other = put(tmp_path / "c", "{name: joint}", name="other")
    names = [study.name for study in gather(read_runs([overlap, other]))]
    assert names == ["made-up study: block_dependent, overlap 3, final", "other: joint"]
    assert [s.name for s in gather(read_runs([joint, other]))] == ["made-up study", "other"]
    assert [study.name for study in gather(read_runs([overlap]))] == ["made-up study"]


def test_phases_with_an_objective_of_their_own_are_in_the_name(tmp_path: Path) -> None:
    joint = put(tmp_path / "a", "{name: joint}")
    both = put(tmp_path / "b", "{name: joint}")
    config = (both / "config.yaml").read_text("utf-8")
    phases = "train: {phases: [{epochs: 1}, {objective: {name: layer_wise}}]}"
    (both / "config.yaml").write_text(config.replace("train: {epochs: 1}", phases), "utf-8")
    names = [study.name for study in gather(read_runs([joint, both]))]
    assert names == ["joint", "joint, then layer_wise"]


def test_labels_name_studies_and_bring_seeds_together() -> None:
    runs = [small(0, name="x"), small(1, name="y"), small(0, name="z")]
    studies = gather(read_runs(runs, ["one", "one", None]))
    assert [(study.name, study.seeds) for study in studies] == [("one", [0, 1]), ("z", [0])]
    for labels, said in ((["a"], "a label or None for each of 3"), (["", None, "b"], "got ''")):
        with pytest.raises(ReportError, match=said):
            read_runs(runs, labels)
    with pytest.raises(ReportError, match="two studies named 'z'"):
        gather(read_runs(runs, ["z", None, None]))
