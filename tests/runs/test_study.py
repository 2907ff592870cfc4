"""From a recipe to results: what lies in a run's folder, and that it is what it says."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import offramp
from offramp.config import Config, PolicyConfig, load_config
from offramp.data import Splits
from offramp.errors import BudgetError, BundleError, DataError, RunError, ValidationError
from offramp.heads import LinearHead
from offramp.policies import create_policy
from offramp.runs import (
    Run,
    fit_policies,
    make_data,
    make_model,
    make_objective,
    open_runs,
    score,
    train,
)
from offramp.runs.fitting import load_policies

from .conftest import SMALL


def test_trained_run_has_what_the_next_steps_need(trained: Run) -> None:
    names = sorted(entry.name for entry in trained.path.iterdir())
    assert names == ["bundle", "checkpoints", "config.yaml", "metrics.jsonl", "records"]
    bundle = trained.bundle()
    splits = make_data(trained.config)
    assert bundle.class_names == splits.class_names
    assert bundle.policy is None
    assert len(trained.calibration()) == len(splits.calibration[1])


def test_calibration_records_are_the_bundles_answers(trained: Run) -> None:
    splits, bundle = make_data(trained.config), trained.bundle()
    again = offramp.record(bundle.model, splits.calibration, progress=False)
    for one, two in zip(trained.calibration().logits, again.logits, strict=True):
        torch.testing.assert_close(one, two)


def test_training_touches_no_test_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poison:
        def __len__(self) -> int:
            raise AssertionError("the test part was asked for")

        __getitem__ = __iter__ = __len__

    def poisoned(config: Config) -> Splits:
        return replace(make_data(config), test=Poison())

    monkeypatch.setattr("offramp.runs.training.make_data", poisoned)
    train(load_config("digits", (*SMALL, "train.epochs=1")), tmp_path / "r", progress=False)
    assert (tmp_path / "r" / "bundle" / "bundle.json").is_file()


def test_fit_puts_the_first_policy_into_the_bundle(trained: Run) -> None:
    fitted = fit_policies(trained, budgets=[0.8, 0.6])
    policy = trained.bundle().policy
    assert type(policy) is type(fitted[0].policy)
    assert list(policy.points) == ["0.8", "0.6"]
    costs = trained.bundle().costs
    fresh = create_policy("max_prob", num_exits=2).fit(trained.calibration(), costs, 0.8)
    assert torch.equal(policy.thresholds, fresh.thresholds)
    assert torch.equal(policy.use("0.6").thresholds, fitted[0].policy.use("0.6").thresholds)


def test_policies_come_back_as_they_were_fitted(trained: Run) -> None:
    fitted = fit_policies(trained)
    for one, two in zip(fitted, load_policies(trained), strict=True):
        assert (one.label, one.budgets, one.unit) == (two.label, two.budgets, two.unit)
        for point in one.budgets:
            thresholds = one.policy.use(point).thresholds
            assert torch.equal(thresholds, two.policy.use(point).thresholds)


def test_fitting_again_forgets_policies_of_before(trained: Run) -> None:
    fit_policies(trained)
    fit_policies(trained, trained.config.policies[1:], [0.9])
    assert [each.label for each in load_policies(trained)] == ["entropy"]
    names = sorted(file.name for file in trained.policies_path.iterdir())
    assert names == ["entropy.safetensors", "index.json"]


def test_budget_out_of_reach_leaves_the_run_as_it_was(trained: Run) -> None:
    before = {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}
    with pytest.raises(BudgetError, match=r"budget of 0\.01 is out of reach"):
        fit_policies(trained, budgets=[0.9, 0.01])
    assert before == {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}


def test_results_are_those_of_evaluate(scored: Run) -> None:
    results, costs = scored.results(), scored.bundle().costs
    test = offramp.load_records(scored.records_path("test"))
    policy = create_policy("entropy", num_exits=2).fit(scored.calibration(), costs, 0.9)
    wanted = offramp.evaluate(policy, test, costs).to_dict()
    assert results["curves"]["entropy"][1] == {**wanted, "budget": 0.9}
    assert results["full"] == {"cost": 1.0, "accuracy": wanted["full_accuracy"]}
    assert sorted(results["curves"]) == ["entropy", "max_prob", "oracle", "random"]


def test_results_count_every_test_input_once_per_bin_set(scored: Run) -> None:
    results = scored.results()
    for bins in results["calibration"]:
        assert len(bins) == 15
        assert sum(one["count"] for one in bins) == results["num_test"]


def test_cut_off_networks_cost_no_more_than_the_exits_they_end_at(scored: Run) -> None:
    results = scored.results()
    assert len(results["static"]) == results["num_exits"] - 1
    for static, alone in zip(results["static"], results["exits"], strict=False):
        assert static["cost"] <= alone["cost"] + 1e-12
        assert static["accuracy"] == alone["top1"]


def test_samples_are_test_rows_at_the_exits_they_leave_by(scored: Run) -> None:
    results = scored.results()
    samples, test = results["samples"], offramp.load_records(scored.records_path("test"))
    labels = test.targets.tolist()
    assert set(samples["labels"]) <= set(labels)
    middle = samples["exits"]["max_prob"][1]
    policy = load_policies(scored)[0].policy.use("0.9")
    left = policy.exits(test)
    for k in range(results["num_exits"]):
        assert middle.count(k) == min(3 * 10, int((left == k).sum()))  # three of each digit
    assert all(image.startswith("data:image/png;base64,") for image in samples["images"])


def test_scoring_again_runs_the_model_no_second_time(
    scored: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scored.results()
    monkeypatch.setattr("offramp.runs.scoring.record", None)
    assert score(scored, progress=False) == before


def test_clock_says_what_was_measured(scored: Run) -> None:
    rows = score(scored, clock=True, progress=False)["clock"]
    assert [(row["batch_size"], row["budget"]) for row in rows] == [
        (size, budget) for size in (1, 32) for budget in (0.5, 0.9)
    ]
    for row in rows:
        assert row["speed_up"] == pytest.approx(row["full_ms"] / row["ms"])


def test_fitting_again_takes_away_results_of_before(scored: Run) -> None:
    fit_policies(scored, budgets=[0.7])
    with pytest.raises(RunError, match="offramp eval"):
        scored.results()
    assert [point["budget"] for point in score(scored, progress=False)["curves"]["entropy"]] == [
        0.7
    ]


def test_budgets_that_are_close_are_points_of_their_own(trained: Run) -> None:
    [fitted] = fit_policies(trained, trained.config.policies[:1], [0.6, 0.6000000001, 1.0])
    assert fitted.budgets == {"0.6": 0.6, "0.6000000001": 0.6000000001, "1": 1.0}
    with pytest.raises(ValidationError, match=r"budgets that differ, got \[0.6, 0.6\]"):
        fit_policies(trained, budgets=[0.6, 0.6])


def test_results_say_what_they_are_made_of(scored: Run) -> None:
    made = scored.results()["made"]
    assert (made["data"], made["model"]) == ("digits", "resnet_cifar")
    splits = make_data(scored.config)
    parts = ("train", "validation", "calibration", "test")
    assert made["parts"] == {part: len(getattr(splits, part)[1]) for part in parts}


def test_records_of_other_data_or_another_model_are_not_scored(scored: Run, tmp_path: Path) -> None:
    config = (scored.path / "config.yaml").read_text("utf-8")
    (scored.path / "config.yaml").write_text(config.replace("seed: 0", "seed: 1"), "utf-8")
    with pytest.raises(RunError, match="calibration records are not what the bundle answers"):
        score(scored, progress=False)
    (scored.path / "config.yaml").write_text(config, "utf-8")
    [other] = train(load_config("digits", (*SMALL, "seed=3")), tmp_path / "other", progress=False)
    fit_policies(other)
    score(other, progress=False)
    shutil.rmtree(scored.records_path("test"))
    shutil.copytree(other.records_path("test"), scored.records_path("test"))
    with pytest.raises(RunError, match="test records are not what the bundle answers"):
        score(scored, progress=False)
    fewer = config.replace("data:\n", "data:\n  calibration: 0.1\n")
    (scored.path / "config.yaml").write_text(fewer, "utf-8")
    with pytest.raises(RunError, match="calibration records have 361 inputs, the data now 179"):
        score(scored, progress=False)


def test_training_again_takes_away_what_was_made_of_the_bundle_before(scored: Run) -> None:
    (scored.path / "report.html").write_text("<!doctype html>")
    config = (scored.path / "config.yaml").read_text("utf-8")
    (scored.path / "config.yaml").write_text(config.replace("epochs: 2", "epochs: 1"), "utf-8")
    for name in ("bundle", "checkpoints"):
        shutil.rmtree(scored.path / name)
    train(scored.config, scored.path, resume=True, progress=False)
    names = sorted(entry.name for entry in scored.path.iterdir())
    assert names == ["bundle", "checkpoints", "config.yaml", "metrics.jsonl", "records"]
    assert [entry.name for entry in (scored.path / "records").iterdir()] == ["calibration"]


def test_run_in_a_folder_named_as_a_recipe_keeps_its_own_configuration(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.path.rename(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    assert Run(Path("mnist")).config.data.name == "digits"


def test_damaged_files_of_a_run_are_named(scored: Run) -> None:
    for file, read in (
        (scored.results_path, scored.results),
        (scored.policies_path / "index.json", lambda: load_policies(scored)),
    ):
        for text in ("{", "[1]"):
            file.write_text(text)
            with pytest.raises(RunError, match=f"{file.name} is damaged: "):
                read()
    (scored.policies_path / "index.json").write_text("{}")
    with pytest.raises(RunError, match=r"index\.json, or a policy that it names, is damaged"):
        load_policies(scored)


def test_several_seeds_are_runs_of_their_own(tmp_path: Path) -> None:
    config = load_config("digits", (*SMALL, "train.epochs=1"))
    runs = train(config, tmp_path / "study", seeds=2, progress=False)
    assert [run.path.name for run in runs] == ["seed-0", "seed-1"]
    assert open_runs(tmp_path / "study") == runs
    assert [run.config.seed for run in runs] == [0, 1]
    first, second = (run.bundle().model.state_dict() for run in runs)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_run_that_is_there_is_not_trained_over(trained: Run) -> None:
    before = {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}
    with pytest.raises(RunError, match=r"holds a run already.*--resume"):
        train(trained.config, trained.path, progress=False)
    with pytest.raises(RunError, match=r"epochs: 2.*epochs: 3"):
        other = load_config(trained.path, ["train.epochs=3"])
        train(other, trained.path, resume=True, progress=False)
    assert before == {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}


def test_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="empty folder"):
        train(load_config("digits", SMALL), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ("model.in_channels=3", ValidationError, "does not take inputs of shape 1x8x8, 2 at once"),
        ("budgets=[0.5, 0.01]", BudgetError, r"budgets: a budget of 0\.01 is out of reach"),
        ("policies=[{name: fixed, exit: 9}]", ValidationError, r"an exit in 0\.\.1, got 9"),
        ("objective={name: distill, teacher: gone}", BundleError, "gone, got nothing there"),
        ("data.images_per_class=10000", DataError, "images_per_class=10000"),
    ],
)
def test_training_that_cannot_succeed_is_refused_before_it_begins(
    change: str,
    error: type[Exception],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("offramp.runs.training.fit", None)
    with pytest.raises(error, match=told):
        train(load_config("digits", (*SMALL, change)), tmp_path / "a" / "b", progress=False)
    assert not (tmp_path / "a").exists()


def test_batches_of_one_that_batch_norm_refuses_are_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pooled(*_: object) -> offramp.MultiExitModel:
        body = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(1))
        return offramp.MultiExitModel([body], [LinearHead(1, 10)])

    monkeypatch.setattr("offramp.runs.training.make_model", pooled)
    monkeypatch.setattr("offramp.runs.training.fit", None)
    words = (*SMALL, "train.batch_size=1", "budgets=[1.0]")
    with pytest.raises(ValidationError, match="not train on inputs of shape 1x8x8, 1 at once"):
        train(load_config("digits", words), tmp_path / "r", progress=False)


def test_folder_that_cannot_be_written_is_told_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("offramp.runs.training.make_data", None)
    with pytest.raises(NotADirectoryError):
        train(load_config("digits", SMALL), tmp_path / "file" / "run", progress=False)


def test_full_disk_at_the_first_checkpoint_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("offramp.train.resume.save_checkpoint", full)
    config = load_config("digits", (*SMALL, "train.monitor=nll/mean"))  # best weights come first
    with pytest.raises(OSError, match="No space left"):
        train(config, tmp_path / "new" / "run", progress=False)
    assert not (tmp_path / "new").exists()


def test_run_killed_before_its_first_step_may_begin_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: of another try\n")
    (run / "config.yaml.0123456789abcdef.partial").write_text("na")
    train(load_config("digits", (*SMALL, "train.epochs=1")), run, progress=False)
    assert Run(run).bundle().class_names


def test_single_run_is_no_folder_for_several(trained: Run) -> None:
    with pytest.raises(RunError, match=r"wanted a folder for 2 runs, got .* a single one"):
        train(trained.config, trained.path, seeds=2, resume=True, progress=False)


def test_finished_run_resumed_stays_as_it_is(trained: Run) -> None:
    before = {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}
    train(trained.config, trained.path, resume=True, progress=False)
    assert before == {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}


def test_run_killed_before_its_bundle_is_finished_by_resume(trained: Run) -> None:
    weights = (trained.bundle_path / "model.safetensors").read_bytes()
    shutil.rmtree(trained.bundle_path)
    shutil.rmtree(trained.records_path("calibration"))
    with pytest.raises(RunError, match="--resume"):
        fit_policies(trained)
    train(trained.config, trained.path, resume=True, progress=False)
    assert (trained.bundle_path / "model.safetensors").read_bytes() == weights
    assert len(trained.calibration())


def test_controls_cannot_be_fitted(trained: Run) -> None:
    control = PolicyConfig(name="oracle", label="oracle")
    with pytest.raises(ValidationError, match="the control 'oracle'"):
        fit_policies(trained, [control])


def test_steps_out_of_order_say_what_comes_first(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="offramp fit"):
        score(trained, progress=False)
    with pytest.raises(RunError, match="offramp eval"):
        trained.results()
    with pytest.raises(RunError, match=r"neither config\.yaml nor seed"):
        open_runs(tmp_path)
    with pytest.raises(RunError, match="is no folder"):
        open_runs(tmp_path / "nothing")


def test_models_are_drawn_by_seed_and_leave_the_random_state(tmp_path: Path) -> None:
    config = load_config("digits", SMALL)
    splits, before = make_data(config), torch.get_rng_state()
    one, two = make_model(config, splits), make_model(config, splits)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])


def test_results_file_is_plain_json(scored: Run) -> None:
    text = scored.results_path.read_text()
    assert json.loads(text)["format"] == "offramp-results"
    assert "NaN" not in text


def test_results_in_parameters_hold_no_cost_in_multiply_accumulates(trained: Run) -> None:
    fit_policies(trained, budgets=[0.9], unit="params")
    results = score(trained, progress=False)
    assert results["unit"] == "params"
    assert results["static"] == []
    wanted = trained.bundle().costs.relative("params").tolist()
    assert [each["cost"] for each in results["exits"]] == wanted


def test_teacher_inside_a_wrapped_objective_is_the_model_of_its_bundle(trained: Run) -> None:
    inner = {"name": "distill", "teacher": str(trained.bundle_path)}
    objective = make_objective({"name": "gradient_equilibrium", "objective": inner})
    teacher = objective.objective.teacher
    assert isinstance(teacher, offramp.MultiExitModel)
