"""Gates trained at the end of a training, and swept afterwards: what is found, and what stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import pstdev
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import offramp
from offramp.config import Config, load_config
from offramp.data import Splits
from offramp.errors import BudgetError, RunError, ValidationError
from offramp.runs import Run, gating, make_data, sweep, train
from offramp.train.gate_fit import Fitting
from offramp.types import Records

SMALL = (
    "model.depth=8",
    "model.at=[layer1, layer2]",
    "model.gate=true",
    "train.epochs=1",
    "train.lr=0.05",
    "policies=[max_prob]",
    "budgets=[0.8]",
)
GATES = "gates={budget: 0.7, data: validation, steps: 40}"
FIGURES = ("accuracy", "cost", "cost_stderr", "mean_exit", "rates")


class Poison:
    """A test part that is not to be looked at."""

    def __len__(self) -> int:
        raise AssertionError("the test part was asked for")

    __getitem__ = __iter__ = __len__


def poisoned(config: Config) -> Splits:
    return replace(make_data(config), test=cast(Any, Poison()))


@pytest.fixture(scope="module")
def _gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gating") / "gated"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offramp.runs.training.make_data", poisoned)
        train(load_config("digits", (*SMALL, GATES)), out, device="cpu", progress=False)
    return out


@pytest.fixture
def gated(_gated: Path, tmp_path: Path) -> Run:
    """A run with gates of their own, one's own copy."""
    return Run(Path(shutil.copytree(_gated, tmp_path / "gated")))


def state(run: Run) -> dict[str, Tensor]:
    return run.bundle().model.state_dict()


def lines(run: Run) -> list[dict[str, Any]]:
    """The log, without what a clock says."""
    told = map(json.loads, (run.path / "metrics.jsonl").read_text("utf-8").splitlines())
    timed = ("seconds", "cache_seconds", "images_per_s")
    return [{k: v for k, v in line.items() if k not in timed} for line in told]


def replayed(records: Records, costs: Tensor) -> dict[str, Any]:
    """Figures of the published rule, row by row."""
    gates = [out.gate for out in records.shards[0].outputs]
    exits = []
    for row in range(len(records)):
        opened = [k for k, gate in enumerate(gates[:-1]) if gate is not None and gate[row] > 0]
        exits.append(opened[0] if opened else len(gates) - 1)
    answers = [int(records.logits[k][row].argmax()) for row, k in enumerate(exits)]
    num = len(exits)
    right = sum(a == t for a, t in zip(answers, records.targets.tolist(), strict=True))
    return {
        "accuracy": right / num,
        "cost": sum(float(costs[k]) for k in exits) / num,
        "cost_stderr": pstdev([float(costs[k]) for k in exits]) / num**0.5,
        "mean_exit": sum(exits) / num,
        "rates": [exits.count(k) / num for k in range(len(gates))],
    }


def close(told: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return set(told) == set(FIGURES) and all(
        told[name] == pytest.approx(wanted[name], abs=1e-6) for name in FIGURES
    )


# ------------------------------------------------------------------------ in training
def test_gates_json_is_what_the_bundle_does_on_the_calibration_part(gated: Run) -> None:
    told = json.loads(gated.gates_path.read_text("utf-8"))
    assert (told["format"], told["version"]) == ("offramp-gates", 1)
    assert (told["target"], told["unit"], told["data"]) == ({"budget": 0.7}, "macs", "validation")
    costs = gated.bundle().costs
    assert costs is not None
    assert close(told["calibration"], replayed(gated.calibration(), costs.relative()))
    assert 0 <= told["alpha"] <= 1
    assert told["calibration"]["cost"] < costs.relative()[-1]


def test_log_ends_with_what_was_found(gated: Run) -> None:
    *before, last = lines(gated)
    told = json.loads(gated.gates_path.read_text("utf-8"))
    assert last == {"kind": "gates", **{k: v for k, v in told.items() if k in last}}
    assert {"alpha", "target", "calibration"} <= set(last)
    assert all(line["kind"] != "gates" for line in before)


def test_nothing_but_the_gates_differs_from_a_training_without_the_section(
    gated: Run, tmp_path: Path
) -> None:
    [plain] = train(load_config("digits", SMALL), tmp_path / "plain", device="cpu", progress=False)
    assert not plain.gates_path.exists()
    one, two = state(gated), state(plain)
    unlike = {name for name in one if not torch.equal(one[name], two[name])}
    assert unlike == {f"heads.{k}.gate.{part}" for k in (0, 1) for part in ("weight", "bias")}


def test_training_that_stops_at_its_gates_goes_on_to_the_same_run(
    gated: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = load_config("digits", (*SMALL, GATES)), tmp_path / "again"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("offramp.runs.gating.write_text", "offramp.runs.training.record"):
        with monkeypatch.context() as patch:
            patch.setattr(place, stop)
            with pytest.raises(KeyboardInterrupt):
                train(config, out, resume=True, device="cpu", progress=False)
        assert not (out / "bundle").exists()
    assert Run(out).gates_path.is_file()  # the second time it came so far
    [run] = train(config, out, resume=True, device="cpu", progress=False)
    assert run.gates_path.read_bytes() == gated.gates_path.read_bytes()
    assert lines(run) == lines(gated)
    one, two = state(run), state(gated)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("target", "low", "high"),
    [("alpha: 1.0", 0.0, 0.5), ("max_drop: 0.02", 0.0, 1.1), ("speedup: 1.1", 0.0, 1 / 1.1)],
)
def test_every_target_is_taken(target: str, low: float, high: float, tmp_path: Path) -> None:
    config = load_config("digits", (*SMALL, f"gates={{{target}}}"))
    [run] = train(config, tmp_path / "run", device="cpu", progress=False)
    told = json.loads(run.gates_path.read_text("utf-8"))
    assert low <= told["calibration"]["cost"] <= high
    assert told["data"] == config.plain()["gates"]["data"]


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ("model.gate=false", ValidationError, r"^gates: wanted one gate .* at exit 0; gate=True"),
        ("gates.budget=0.01", BudgetError, r"^gates\.budget: a budget of 0\.01 is out of reach"),
        ("gates={speedup: 99}", BudgetError, r"^gates\.speedup: a budget of 0\.0101 is out of"),
    ],
)
def test_gates_that_cannot_be_trained_are_told_before_anything_is(
    change: str, error: type[Exception], wanted: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("offramp.runs.training.fit", None)
    with pytest.raises(error, match=wanted):
        train(load_config("digits", (*SMALL, GATES, change)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------ afterwards
def test_sweep_says_what_each_alpha_gives_on_calibration_and_test(gated: Run) -> None:
    told = sweep(gated, 3, test=True, device="cpu", progress=False)
    assert told == json.loads(gated.sweep_path.read_text("utf-8"))
    assert (told["format"], told["version"], told["unit"]) == ("offramp-sweep", 1, "macs")
    assert told["alphas"] == [0.0, 0.5, 1.0] == [point["alpha"] for point in told["points"]]
    assert 0 < told["seconds"] < 60
    bundle, splits = gated.bundle(), make_data(gated.config)
    assert bundle.costs is not None
    learned = gating.cache_gates(bundle.model, splits.validation, progress=False)
    held = gating.cache_gates(bundle.model, splits.calibration, progress=False)
    how = Fitting(steps=40)
    points = gating.sweep_gates(learned, held, bundle.costs, [0.0, 0.5, 1.0], how=how)
    for point, wanted in zip(told["points"], points, strict=True):
        wanted.gates.put(bundle.model)
        for part in ("calibration", "test"):
            records = offramp.record(bundle.model, getattr(splits, part), progress=False)
            assert close(point[part], replayed(records, bundle.costs.relative())), part


def test_sweep_reads_the_test_part_only_when_asked_and_leaves_the_bundle(
    gated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f: f.read_bytes() for f in gated.path.rglob("*") if f.is_file()}
    monkeypatch.setattr(gating, "make_data", poisoned)
    told = sweep(gated, 2, unit="params", progress=False)
    assert [point["test"] for point in told["points"]] == [None, None]
    after = {f: f.read_bytes() for f in gated.path.rglob("*") if f.is_file()}
    assert {f: v for f, v in after.items() if f != gated.sweep_path} == before


def test_sweep_that_stops_leaves_the_one_before(
    gated: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(gated, 2, progress=False)
    before = gated.sweep_path.read_bytes()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("offramp.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep(gated, 3, progress=False)
    assert gated.sweep_path.read_bytes() == before
    assert [f.name for f in gated.path.iterdir() if f.name.endswith(".partial")] == []


def test_sweep_in_time_measures_it(gated: Run) -> None:
    told = sweep(gated, 2, unit="latency_ms", device="cpu", progress=False)
    assert told["unit"] == "latency_ms"
    assert all(point["calibration"]["cost"] > 0 for point in told["points"])


def test_sweep_refuses_what_it_cannot_do(gated: Run) -> None:
    with pytest.raises(ValidationError, match=r"unit as one of macs, params, latency_ms, got 'ms'"):
        sweep(gated, 2, unit="ms", progress=False)
    with pytest.raises(ValidationError, match=r"data as one of train, validation, got 'test'"):
        sweep(gated, 2, data="test", progress=False)
    with pytest.raises(ValidationError, match=r"alphas as a whole number of at least 2, got 1"):
        sweep(gated, 1, progress=False)
    config = (gated.path / "config.yaml").read_text("utf-8")
    (gated.path / "config.yaml").write_text(config.replace("seed: 0", "seed: 1", 1), "utf-8")
    with pytest.raises(RunError, match="calibration records are not what the bundle answers"):
        sweep(gated, 2, progress=False)
    shutil.rmtree(gated.bundle_path)
    with pytest.raises(RunError, match=r"which does not have it yet: offramp train .* --resume"):
        sweep(gated, 2, progress=False)
    assert not gated.sweep_path.exists()


def test_sweep_of_a_model_without_gates_says_how_to_get_them(tmp_path: Path) -> None:
    config = load_config("digits", (*SMALL, "model.gate=false"))
    [run] = train(config, tmp_path / "run", device="cpu", progress=False)
    with pytest.raises(ValidationError, match=r"wanted one gate at every early .*gate=True"):
        sweep(run, 2, progress=False)


def test_training_again_takes_away_a_sweep_of_the_bundle_before(gated: Run) -> None:
    gated.sweep_path.write_text("{}")
    for name in ("bundle", "checkpoints"):
        shutil.rmtree(gated.path / name)
    train(gated.config, gated.path, resume=True, device="cpu", progress=False)
    assert not gated.sweep_path.exists()
    assert gated.gates_path.is_file()
