"""Maps end to end: from a folder of images and masks to trained exits, results and PNG files."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import offramp
from offramp.bundle import Bundle
from offramp.cli import app
from offramp.config import load_config
from offramp.errors import DataError, OfframpError, RunError, ValidationError
from offramp.policies import create_policy
from offramp.runs import Run, make_data, predict, predict_maps, train
from offramp.runs.colours import class_colours, picture
from offramp.runs.fitting import load_policies

NAMES = ["sky", "road", "car", "bus"]
SIZE = (24, 32)


def draw(folder: Path, num: int, seed: int) -> None:
    """Noisy pictures of boxes and their masks: three classes that are there, one that never is."""
    chance = np.random.default_rng(seed)
    colours = np.array([[60, 90, 200], [220, 60, 40], [60, 200, 60]])
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(num):
        mask = np.zeros(SIZE, np.uint8)
        for label in (1, 2):
            y, x = chance.integers(0, 14), chance.integers(0, 20)
            mask[y : y + 10, x : x + 12] = label
        noise = chance.normal(0, 25, (*SIZE, 3))
        pixels = np.clip(colours[mask] + noise, 0, 255).astype(np.uint8)
        mask[0] = 255  # the first line does not count
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def say(*words: str | Path) -> tuple[int, str]:
    """Run a command in this process; exit code, and standard output and error."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout + done.stderr


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and masks, in official splits."""
    folder = tmp_path_factory.mktemp("boxes")
    for seed, (part, num) in enumerate({"train": 28, "val": 6, "test": 9}.items()):
        draw(folder / part, num, seed)
    return folder


@pytest.fixture(scope="session")
def recipe(boxes: Path) -> Path:
    file = boxes / "boxes.yaml"
    file.write_text(
        f"""
name: boxes
data: {{name: mask_folder, path: {boxes}, class_names: {NAMES}, image_size: [24, 32],
  calibration: 0.25}}
model: {{name: small_fcn, width: 8, num_exits: 3, context: 0}}
train: {{epochs: 4, batch_size: 7, lr: 0.05, monitor: miou/mean}}
policies: [max_prob, {{name: patience, reduce: worst_patch}}, {{name: entropy, temperature: true}}]
budgets: [0.5, 0.8]
"""
    )
    return file


@pytest.fixture(scope="session")
def _scored(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "boxes"
    for words in (("train", recipe, "--out", out, "-q"), ("fit", out), ("eval", out, "-q")):
        code, said = say(*words)
        assert code == 0, said
    return out


@pytest.fixture
def scored(_scored: Path, tmp_path: Path) -> Run:
    """A run over maps with results, one's own copy."""
    return Run(Path(shutil.copytree(_scored, tmp_path / "scored")))


# ------------------------------------------------------------------------ results
def test_training_learns_and_keeps_the_weights_of_the_best_iou(scored: Run) -> None:
    lines = (scored.path / "metrics.jsonl").read_text().splitlines()
    epochs = [line for line in map(json.loads, lines) if line["kind"] == "epoch"]
    figures = [sum(each["validation_miou"]) / 3 for each in epochs]
    assert [each["best"] for each in epochs] == [
        figure == max(figures[: n + 1]) for n, figure in enumerate(figures)
    ]
    assert len(epochs[-1]["miou"]) == 3
    assert max(figures) > 0.3  # guessing the largest class gives less


def test_results_of_maps_are_those_of_a_loop_over_pixels(scored: Run) -> None:
    results, test = scored.results(), offramp.load_records(scored.records_path("test"))
    assert results["task"] == "map" and results["num_test"] == 9
    for k, logits in enumerate(test.logits):
        grown = F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
        answers, targets = grown.argmax(1), test.targets
        iou = [
            (int(((answers == c) & (targets == c)).sum()), int(union))
            if (union := (((answers == c) | (targets == c)) & (targets >= 0)).sum())
            else None
            for c in range(4)
        ]
        wanted = [None if each is None else each[0] / each[1] for each in iou]
        exit = results["exits"][k]
        assert exit["iou"] == [None if each is None else pytest.approx(each) for each in wanted]
        there = [each for each in wanted if each is not None]
        assert exit["miou"] == pytest.approx(sum(there) / len(there))
        assert exit["top1"] == pytest.approx(
            int((answers == targets).sum()) / int((targets >= 0).sum())
        )
    assert results["exits"][2]["iou"][3] is None or results["exits"][2]["iou"][3] == 0
    assert results["full"]["miou"] == results["exits"][2]["miou"]
    assert [each["miou"] for each in results["static"]] == [
        each["miou"] for each in results["exits"][:2]
    ]
    for bins in results["calibration"]:
        assert sum(one["count"] for one in bins) == int((test.targets >= 0).sum())


def test_points_of_maps_are_those_of_evaluate(scored: Run) -> None:
    results, costs = scored.results(), scored.bundle().costs
    test, calibration = (
        offramp.load_records(scored.records_path(part)) for part in ("test", "calibration")
    )
    for label, name, options in (
        ("patience", "patience", {"reduce": "worst_patch"}),
        ("entropy", "entropy", {"temperature": True}),
        ("oracle", "oracle", {}),
    ):
        policy = create_policy(name, num_exits=3, **options).fit(calibration, costs, 0.8)
        wanted = offramp.evaluate(policy, test, costs).to_dict()
        came = results["curves"][label][1]
        assert came["cost_stderr"] is not None and results["examine"] == results["rules"] == {}
        assert came == {**wanted, "budget": 0.8}
        assert 0 < came["miou"] < 1


def test_records_of_maps_keep_the_heads_resolution_and_short_targets(scored: Run) -> None:
    from safetensors import safe_open

    folder = scored.records_path("test")
    records = offramp.load_records(folder)
    assert [tuple(z.shape[2:]) for z in records.logits] == [(6, 8), (3, 4), (3, 4)]
    with safe_open(folder / "shard-00000.safetensors", framework="pt") as stored:
        assert stored.get_tensor("targets").dtype == torch.int16
    assert records.targets.dtype == torch.int64
    splits = make_data(scored.config)
    assert torch.equal(records.targets, splits.test.batch(torch.arange(9))[1])
    assert bool((records.targets[:, 0] == -100).all())


def test_adaptive_run_of_a_bundle_of_maps_equals_replay(scored: Run) -> None:
    bundle, splits = scored.bundle(), make_data(scored.config)
    inputs, _ = splits.test.batch(torch.arange(9))
    test = offramp.load_records(scored.records_path("test"))
    seen = set()
    for fitted in load_policies(scored):
        for point in fitted.budgets:
            policy = fitted.policy.use(point)
            came = offramp.run(bundle.model, policy, inputs, size=SIZE)
            assert came.exits.tolist() == policy.exits(test).tolist()
            for row, k in enumerate(came.exits.tolist()):
                answer = policy.answers(test.shards[0])[k][row : row + 1]
                wanted = F.interpolate(answer, SIZE, mode="bilinear", align_corners=False)
                torch.testing.assert_close(came.logits[row : row + 1], wanted, rtol=1e-4, atol=1e-4)
            seen |= set(came.exits.tolist())
    assert len(seen) > 1


def test_eval_shows_iou_beside_pixels_and_times_maps(scored: Run) -> None:
    code, said = say("eval", scored.path, "--clock", "-q")
    assert code == 0
    assert "mIoU, %" in said and "pixels, %" in said and "measured" in said
    last = scored.results()["exits"][2]
    assert f"{100 * last['miou']:.2f}" in said and f"{100 * last['top1']:.2f}" in said
    assert [row["batch_size"] for row in scored.results()["clock"]] == [1, 1, 7, 7]


# ------------------------------------------------------------------------ samples
def opened(address: str) -> Image.Image:
    start = "data:image/png;base64,"
    assert address.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(address[len(start) :])))


def test_samples_of_maps_are_pictures_of_targets_and_answers(scored: Run) -> None:
    samples = scored.results()["samples"]
    test, splits = offramp.load_records(scored.records_path("test")), make_data(scored.config)
    num = len(samples["images"])
    assert 0 < num <= 4 * 3 and len(samples["targets"]) == num
    assert [len(each) for each in samples["answers"]] == [num] * 3
    assert {len(e) for each in samples["exits"].values() for e in each} == {num}
    shown = [np.asarray(opened(image)) for image in samples["images"]]
    raw = splits.test.raw(torch.arange(9)).permute(0, 2, 3, 1).numpy()
    rows = [next(n for n in range(9) if np.array_equal(raw[n], each)) for each in shown]
    for at, row in enumerate(rows):
        target = test.targets[row].where(test.targets[row] >= 0, 255)
        assert np.array_equal(np.asarray(opened(samples["targets"][at])), target.numpy())
        for k, logits in enumerate(test.logits):
            grown = F.interpolate(logits[row : row + 1], SIZE, mode="bilinear")
            answer = opened(samples["answers"][k][at])
            assert np.array_equal(np.asarray(answer), grown[0].argmax(0).numpy())
    made = opened(samples["targets"][0])
    assert made.info["transparency"] == 255  # what does not count is see-through
    red, green, blue = made.getpalette()[3:6]
    assert samples["colours"][1] == f"#{red:02x}{green:02x}{blue:02x}" == "#804080"


def test_report_of_maps_shows_targets_and_the_answers_of_the_exits_left_at(scored: Run) -> None:
    code, said = say("report", scored.path)
    assert code == 0, said
    text = (scored.path / "report.html").read_text("utf-8")
    samples = scored.results()["samples"]
    middle = samples["exits"]["max_prob"][1]
    figures = re.findall(r'<figure data-i="(\d+)">(.*?)</figure>', text)
    assert sorted(int(i) for i, _ in figures) == list(range(len(samples["images"])))
    for i, drawn in ((int(i), drawn) for i, drawn in figures):
        shown = re.findall(r'<img src="([^"]*)"[^>]*?( hidden)?>', drawn)
        answers = [
            (each[i], "" if k == middle[i] else " hidden")
            for k, each in enumerate(samples["answers"])
        ]
        assert shown == [(samples["images"][i], ""), (samples["targets"][i], ""), *answers]
    for name, colour in zip(NAMES, samples["colours"], strict=True):
        assert re.search(rf'fill="{colour}"></rect></svg>{name}</li>', text)
    assert "does not count</li>" in text


def test_colours_differ_whatever_the_classes_are() -> None:
    assert class_colours(["Road", "Sky"]) == [(128, 64, 128), (70, 130, 180)]
    for names in (["person", "pedestrian"], [str(n) for n in range(150)]):
        assert len(set(class_colours(names))) == len(names)


def test_picture_of_very_many_classes_has_16_bits() -> None:
    classes = torch.tensor([[0, 299], [-100, 7]])
    made = picture(classes, class_colours([str(n) for n in range(300)]))
    assert np.asarray(made).tolist() == [[0, 299], [65535, 7]]


# ------------------------------------------------------------------------ predict
@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several sizes, at two depths."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    chance = np.random.default_rng(5)
    for number, name in enumerate(["1.png", "2.jpg", "deep/1.png"]):
        pixels = chance.integers(0, 256, (30 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.mark.parametrize("batch_size", [None, 2])
def test_maps_of_files_are_the_answers_of_model_and_policy(
    scored: Run, photos: Path, tmp_path: Path, batch_size: int | None
) -> None:
    bundle, out = scored.bundle(), tmp_path / "maps"
    found = list(predict_maps(bundle, [photos], out, point="0.8", batch_size=batch_size))
    assert [each.map for each in found] == [
        str(out / name) for name in ("1.png", "2.png", "deep/1.png")
    ]
    for each in found:
        with Image.open(each.file) as image:
            inputs, size = bundle.preprocess(image)[None], image.size
        said = offramp.run(bundle.model, bundle.policy.use("0.8"), inputs, size=SIZE)
        classes = said.logits[0].argmax(0)
        assert each.exit == int(said.exits[0])
        shares = {NAMES[c]: float((classes == c).double().mean()) for c in classes.unique()}
        assert each.classes == pytest.approx(shares)
        assert list(each.classes.values()) == sorted(each.classes.values(), reverse=True)
        with Image.open(each.map) as made:
            assert (made.mode, made.size) == ("P", size)
            came = np.asarray(made)
        rows, columns = (np.arange(n) * s // n for n, s in zip(came.shape, SIZE, strict=True))
        assert np.array_equal(came, classes.numpy()[rows][:, columns])


def test_map_of_a_middle_that_was_cut_out_has_its_size(
    scored: Run, photos: Path, tmp_path: Path
) -> None:
    bundle = scored.bundle()
    bundle = replace(bundle, preprocess=replace(bundle.preprocess, size=(24, 24), resize=24))
    [found] = predict_maps(bundle, [photos / "1.png"], tmp_path / "maps")
    with Image.open(found.map) as made:
        assert made.size == (24, 24)


def test_maps_do_not_overwrite_images_or_each_other(
    scored: Run, photos: Path, tmp_path: Path
) -> None:
    bundle = scored.bundle()
    before = (photos / "1.png").read_bytes()
    with pytest.raises(DataError, match=r"another folder for the maps: .*1\.png is an image"):
        predict_maps(bundle, [photos], photos)
    with pytest.raises(DataError, match="whose maps have names of their own"):
        predict_maps(bundle, [photos / "1.png", photos / "deep" / "1.png"], tmp_path / "maps")
    with pytest.raises(DataError, match=r"folder for the maps, got the file .*1\.png"):
        predict_maps(bundle, [photos / "2.jpg"], photos / "1.png")
    twice = list(predict_maps(bundle, [photos / "1.png"] * 2, tmp_path / "maps"))
    assert twice[0] == twice[1]
    assert (photos / "1.png").read_bytes() == before


def test_each_kind_of_bundle_says_which_way_it_answers(
    scored: Run, trained: Run, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="which are maps: offramp predict BUNDLE FILES --out"):
        predict(scored.bundle(), [photos])
    with pytest.raises(RunError, match="got one without: offramp fit"):
        predict_maps(trained.bundle(), [photos], tmp_path / "maps")
    labels: Bundle = replace(trained.bundle(), policy=create_policy("max_prob", num_exits=2))
    with pytest.raises(RunError, match="answers with maps to write some, got one of labels"):
        predict_maps(labels, [photos], tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_predict_on_the_command_line_writes_maps(scored: Run, photos: Path, tmp_path: Path) -> None:
    code, said = say("predict", scored.path, photos, "--out", tmp_path / "maps", "--budget", "0.5")
    assert code == 0
    assert len(said.splitlines()) == 3 and f"{tmp_path / 'maps' / '2.png'}" in said
    code, said = say("predict", scored.path, photos, "--out", tmp_path / "more", "--json")
    [first, *_] = json.loads(said)
    assert sorted(first) == ["classes", "exit", "file", "map"]
    assert sum(first["classes"].values()) == pytest.approx(1)
    code, said = say("predict", scored.path, photos)
    assert code != 0 and "--out FOLDER" in said


# ------------------------------------------------------------------------ refusals
def test_iou_cannot_choose_weights_for_labels(tmp_path: Path) -> None:
    config = load_config("digits", ("train.monitor=miou/last",))
    with pytest.raises(ValidationError, match="got labels: accuracy/last is for these"):
        train(config, tmp_path / "r", progress=False)
    with pytest.raises(OfframpError, match=r"accuracy/, nll/ or, for maps, miou/"):
        load_config("digits", ("train.monitor=iou/last",))


@pytest.mark.slow
def test_camvid_goes_from_training_to_results(offramp_data: Path, tmp_path: Path) -> None:
    config = tmp_path / "streets.yaml"
    config.write_text(
        f"""
name: streets
data: {{name: camvid, path: {offramp_data / "camvid"}, image_size: [90, 120]}}
model: {{name: small_fcn, width: 16, num_exits: 3}}
train: {{epochs: 6, batch_size: 8, lr: 0.05, monitor: miou/last}}
policies: [max_prob, {{name: entropy, reduce: quantile}}]
budgets: [0.4, 0.6, 0.8, 1.0]
"""
    )
    out = tmp_path / "run"
    for words in (("train", config, "--out", out, "-q"), ("fit", out), ("eval", out, "-q")):
        code, said = say(*words)
        assert code == 0, said
    results = Run(out).results()
    assert results["num_test"] == 233 and len(results["class_names"]) == 11
    assert results["exits"][2]["miou"] > 0.2  # the largest class alone gives 0.03
    # a budget is promised where it was fitted: test frames are of other drives, and less certain
    calibration, relative = Run(out).calibration(), Run(out).bundle().costs.relative()
    for fitted in load_policies(Run(out)):
        for point, exits in fitted.policy.exits_by_point(calibration).items():
            assert float(relative[exits].mean()) <= fitted.budgets[point] + 1e-9
    images = out / "images"
    images.mkdir()
    pixels = make_data(Run(out).config).test.raw([0])[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(images / "frame.png")
    code, said = say("predict", out, images, "--out", tmp_path / "maps")
    assert code == 0 and (tmp_path / "maps" / "frame.png").is_file()
