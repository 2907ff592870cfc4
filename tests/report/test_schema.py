"""The door of the report: what is wrong is named by file and key, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offramp.errors import ReportError
from offramp.report import write
from offramp.report.schema import read_runs

from .made_up import made_up


def small(**changes: Any) -> dict[str, Any]:
    return made_up(pictures=2, budgets=(0.5, 0.7), policies=("max_prob",), **changes)


def put(folder: Path, results: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set what the path leads to, its last entry, or take it out where that is `None`."""
    *way, key, value = path

    def change(results: Any) -> None:
        for step in way:
            results = results[step]
        if value is None:
            del results[key]
        else:
            results[key] = value

    return change


WRONG: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_set("format", "other"), "format: .*offramp-results"),
    (_set("version", 2), "version: wanted 1, got 2, which a newer offramp wrote"),
    (_set("name", None), "name: field required"),
    (_set("name", ""), "name: "),
    (_set("num_exits", 3), r"exits: wanted 3 entries, as num_exits; got 4"),
    (_set("unit", "flops"), "unit: .*got 'flops'"),
    (_set("exits", 1, "top1", 1.5), r"exits\.1\.top1: .*got 1\.5"),
    (_set("exits", 1, "top1", float("nan")), r"exits\.1\.top1: "),
    (_set("exits", 1, "exit", 2), r"exits: wanted exits 0, 1, \.\.\. in order"),
    (_set("full", "accuracy", "0.9"), r"full\.accuracy: .*got '0\.9'"),
    (_set("curves", "max_prob", 1, "cost", 0), r"curves\.max_prob\.1\.cost: .*got 0"),
    (_set("curves", "max_prob", 1, "budget", 0.5), r"curves\.max_prob: wanted every budget once"),
    (
        _set("curves", "max_prob", 0, "exit_rates", [0.5, 0.5]),
        r"curves\.max_prob\.0\.exit_rates: wanted 4 entries",
    ),
    (
        _set("curves", "max_prob", 0, "exit_rates", [0.5] * 4),
        r"curves.max_prob.0.exit_rates: wanted rates that sum to 1, got 2",
    ),
    (_set("calibration", []), "calibration: wanted 4 entries"),
    (_set("costs", "macs", [1.0]), r"costs\.macs: wanted 4 entries"),
    (_set("samples", "labels", [0]), r"samples\.labels: wanted 2 entries, as samples\.images"),
    (_set("samples", "images", 0, "https://x.org/a.png"), r"samples\.images\.0: "),
    (_set("samples", "images", 0, "data:image/svg+xml;base64,AA=="), r"samples\.images\.0: "),
    (_set("samples", "images", 0, 'data:image/png;base64,A"onload="x'), r"samples\.images\.0: "),
    (
        _set("samples", "exits", "max_prob", 0, [0, 4]),
        r"samples.exits.max_prob.0: wanted exits below 4, got 4",
    ),
    (_set("samples", "exits", "other", [[0, 0]]), r"samples\.exits\.other: wanted 0 entries"),
    (_set("clock", 0, "ms", 0.0), r"clock\.0\.ms: "),
    (_set("curves", "max_prob", 0, "cost_stderr", "?"), r"curves\.max_prob\.0\.cost_stderr: "),
    (_set("rules", "max_prob", "accuracy", None), r"rules\.max_prob\.accuracy: field required"),
    (_set("rules", "max_prob", "cost", 0), r"rules\.max_prob\.cost: .*got 0"),
    (
        _set("rules", "max_prob", "exit_rates", [0.5, 0.5]),
        r"rules\.max_prob\.exit_rates: wanted 4 entries",
    ),
    (
        _set("rules", "max_prob", "exit_rates", [0.5] * 4),
        r"rules.max_prob.exit_rates: wanted rates that sum to 1, got 2",
    ),
    (_set("examine", "max_prob", "rule", []), r"examine\.max_prob\.rule: wanted 4 entries"),
    (_set("examine", "max_prob", "rule", 1, [[1, 2]]), r"examine\.max_prob\.rule\.1"),
    (_set("examine", "max_prob", "0.5", 1, 0, 1, 0, -1), r"examine\.max_prob\.0\.5\.1\.0\.1\.0: "),
    (_set("samples", "rules", "max_prob", [0]), r"samples\.rules\.max_prob: wanted 2 entries"),
    (
        _set("samples", "rules", "max_prob", [0, 4]),
        r"samples.rules.max_prob: wanted exits below 4, got 4",
    ),
    (_set("samples", 3), r"samples: input should be .*got 3"),
    (_set("task", "map"), "samples: wanted those of a map, as task; got those of a label"),
]
JPEG, SVG = "data:image/jpeg;base64,AAAA", "data:image/svg+xml;base64,AAAA"
WRONG_MAPS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_set("task", "label"), "samples: wanted those of a label, as task; got those of a map"),
    (_set("samples", "images", None), r"samples\.images: field required"),
    (_set("samples", "targets", None), r"samples\.targets: field required"),
    (_set("samples", "colours", None), r"samples\.colours: field required"),
    (_set("samples", "targets", ["x"]), r"samples\.targets\.0: string should match"),
    (_set("samples", "targets", []), r"samples\.targets: wanted 2 entries, as samples\.images"),
    (_set("samples", "targets", 1, 7), r"samples\.targets\.1: .*got 7"),
    (_set("samples", "targets", 1, "https://x.org/a.png"), r"samples\.targets\.1: "),
    (_set("samples", "targets", 1, 'data:image/png;base64,A"onload="x'), r"samples\.targets\.1: "),
    (_set("samples", "targets", 1, "data:image/png;base64,AAAA\n"), r"samples\.targets\.1: "),
    (_set("samples", "images", 0, JPEG), r"samples\.images\.0: .*got 'data:image/jpeg"),
    (_set("samples", "answers", []), r"samples\.answers: wanted 4 entries, as num_exits; got 0"),
    (
        _set("samples", "answers", 2, []),
        r"samples\.answers\.2: wanted 2 entries, as samples\.images",
    ),
    (_set("samples", "answers", 2, 1, SVG), r"samples\.answers\.2\.1: .*got 'data:image/svg"),
    (_set("samples", "answers", 2, 1, 0), r"samples\.answers\.2\.1: .*got 0"),
    (_set("samples", "colours", 1, "red"), r"samples\.colours\.1: .*got 'red'"),
    (_set("samples", "colours", 1, "#12345"), r"samples\.colours\.1: .*got '#12345'"),
    (_set("samples", "colours", 1, '#12345"'), r"samples\.colours\.1: "),
    (
        _set("samples", "colours", ["#123456"]),
        r"samples\.colours: wanted at least 10, as class_names",
    ),
    (
        _set("samples", "exits", "max_prob", 0, [0]),
        r"samples\.exits\.max_prob\.0: wanted 2 entries",
    ),
    (
        _set("samples", "rules", "max_prob", [0, 4]),
        r"samples.rules.max_prob: wanted exits below 4, got 4",
    ),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_results_that_do_not_hold_name_file_and_key(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    assert_refused(small(rules=("max_prob",)), change, said, tmp_path / "run")


@pytest.mark.parametrize(("change", "said"), WRONG_MAPS, ids=[said[:40] for _, said in WRONG_MAPS])
def test_results_of_maps_that_do_not_hold_name_file_and_key(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    assert_refused(small(task="map", rules=("max_prob",)), change, said, tmp_path / "run")


def assert_refused(
    results: dict[str, Any], change: Callable[[dict[str, Any]], None], said: str, folder: Path
) -> None:
    read_runs([results])  # nothing else is wrong
    change(results)
    put(folder, results)
    with pytest.raises(ReportError, match=rf"run.results\.json: (.*; )?{said}"):
        write([folder])
    assert [path.name for path in folder.iterdir()] == ["results.json"]


def test_all_complaints_come_together(tmp_path: Path) -> None:
    results = small() | {"seed": "one", "num_test": 0}
    with pytest.raises(ReportError, match=r"seed: .*got 'one'; num_test: .*got 0"):
        read_runs([results])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": \ud800'])
def test_files_that_are_no_results_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ReportError, match=r"results\.json: "):
        read_runs([path])


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "at least one run"),
        ("runs/a", "a sequence of runs.*got str"),
        ({"name": "x"}, "a sequence of runs.*got dict"),
        (None, "a sequence of runs.*got NoneType"),
        ([3], "run 0: wanted a folder.*got 3"),
        (["no/such/run"], r"no.such.run is not there"),
    ],
)
def test_runs_that_are_none_are_refused(runs: Any, said: str) -> None:
    with pytest.raises(ReportError, match=said):
        write(runs, "unused.html")
    assert not Path("unused.html").exists()


def test_folder_without_results_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"has no results\.json and no seed-\*/results\.json"):
        read_runs([tmp_path])


def test_study_folder_gives_all_its_seeds_in_order(tmp_path: Path) -> None:
    for seed in (0, 2, 10):
        put(tmp_path / "study" / f"seed-{seed}", small(seed=seed))
    assert [run.results.seed for run in read_runs([tmp_path / "study"])] == [0, 2, 10]


def test_figures_that_are_not_finite_count_as_unknown() -> None:
    results = small()
    results["exits"][0]["nll"] = float("inf")
    assert read_runs([results])[0].results.exits[0].nll is None


def test_results_from_before_rules_are_read_as_having_none() -> None:
    results = read_runs([small()])[0].results
    assert results.rules == results.examine == {}
    assert results.samples is not None and results.samples.rules == {}
    assert results.curves["max_prob"][0].cost_stderr is None


def test_results_from_before_maps_are_read_as_labels() -> None:
    given = small()
    del given["task"]
    results = read_runs([given])[0].results
    assert results.samples is not None and results.samples.kind == "label" == results.task
    assert results.samples.labels == given["samples"]["labels"]


def test_keys_beyond_the_format_are_left_alone() -> None:
    assert read_runs([small() | {"later": {"a": 1}}])[0].results.name == "made-up study"
