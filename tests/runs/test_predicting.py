"""Answers for image files: those of the bundle's model and policy on the images, file by file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.errors import DataError, RunError, UnknownNameError
from offramp.runs import Answer, Run, fit_policies, predict
from offramp.runtime.adaptive import run


@pytest.fixture
def fitted(trained: Run) -> Run:
    fit_policies(trained)
    return trained


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven images of noise, at two depths, among what is no image or hidden."""
    folder = tmp_path / "my ünï phötos"
    (folder / "deep").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number, name in enumerate(["1.png", "2.PNG", "3.jpg", "deep/4.png", "5.gif", "6.tif"]):
        pixels = draw.integers(0, 256, (8 + number, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    pixels = draw.integers(0, 1 << 16, (8, 8), dtype=np.uint16)
    (folder / "7.pgm").write_bytes(b"P5 8 8 65535\n" + pixels.astype(">u2").tobytes())
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._1.png").write_bytes(b"what a Mac leaves behind")
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "1.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_answers_are_those_of_the_model_and_the_policy(fitted: Run, images: Path) -> None:
    bundle = fitted.bundle()
    found = list(predict(bundle, [images, images / "1.png"], point="0.9", batch_size=3))
    names = ["1.png", "2.PNG", "3.jpg", "5.gif", "6.tif", "7.pgm", "deep/4.png", "1.png"]
    assert [answer.file for answer in found] == [str(images / name) for name in names]
    assert bundle.policy and bundle.preprocess and bundle.class_names
    for answer in found:
        with Image.open(answer.file) as image:
            inputs = bundle.preprocess(image)[None]
        said = run(bundle.model, bundle.policy.use("0.9"), inputs)
        share, label = said.logits.softmax(1)[0].max(0)
        assert answer[1::2] == (bundle.class_names[int(label)], int(said.exits[0]))
        assert answer.probability == pytest.approx(float(share), abs=1e-5)


def test_classes_without_a_name_are_told_by_number(fitted: Run, images: Path) -> None:
    bundle = replace(fitted.bundle(), class_names=())
    [answer] = predict(bundle, [images / "1.png"])
    assert answer.label in {str(number) for number in range(10)}
    assert isinstance(answer, Answer)


def test_what_is_no_image_is_found_before_the_first_answer(fitted: Run, images: Path) -> None:
    bundle = fitted.bundle()
    for name, told in (("notes.txt", "is none"), ("8.png", "does not exist")):
        with pytest.raises(DataError, match=f"{name}, which {told}"):
            predict(bundle, [images, images / name], batch_size=1)
    (images / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing, which has none"):
        predict(bundle, [images, images / "nothing"])


def test_damaged_image_is_named(fitted: Run, images: Path) -> None:
    whole = (images / "3.jpg").read_bytes()
    (images / "3.jpg").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(DataError, match=r"cannot decode the image .*3\.jpg"):
        list(predict(fitted.bundle(), [images]))


def test_bundle_must_say_how_to_answer(trained: Run, images: Path) -> None:
    with pytest.raises(RunError, match="a fitted policy, got one without: offramp fit"):
        predict(trained.bundle(), [images])
    fit_policies(trained)
    with pytest.raises(RunError, match="how images are prepared"):
        predict(replace(trained.bundle(), preprocess=None), [images])
    with pytest.raises(UnknownNameError, match=r"'0\.3'; valid: 0\.5, 0\.9"):
        predict(trained.bundle(), [images], point="0.3")


def test_budget_may_be_written_another_way(fitted: Run, images: Path) -> None:
    [one] = predict(fitted.bundle(), [images / "1.png"], point="0.9")
    [two] = predict(fitted.bundle(), [images / "1.png"], point="0.90")
    assert one == two
