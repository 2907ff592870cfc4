"""The five commands of the guide, on a folder of images that no one prepared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import offramp
from offramp.cli import app

from .test_commands import commands

QUICK = ["train.epochs=2", "train.batch_size=32", "data.image_size=24", "model.depth=14"]


def paint(folder: Path, per_class: int = 40) -> None:
    """Photographs of a kind: of three colours, of different sizes, with noise."""
    image = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cat", "dog", "horse")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = torch.rand(40 + number, 64, 3, generator=generator)  # [H, W, 3]
            noise[..., label] += 0.5
            pixels = (noise / 1.5 * 255).byte().numpy()
            image.fromarray(pixels).save(folder / name / f"{number:03}.jpg")


def test_five_commands_lead_from_a_folder_to_a_bundle_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "photos")
    five = [command.words for command in commands("guide/folder.md")][:5]
    for words in five:
        more = [*QUICK, "--quiet"] if words[0] == "train" else []
        done = CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
        assert done.exit_code == 0, (words, done.output)
    run = tmp_path / "runs" / "photos"
    table = (Path(offramp.__file__).parents[2] / "docs/guide/folder.md").read_text("utf-8")
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert len(named) >= 8
    assert [name for name in named if not (run / name).exists()] == []
    bundle = offramp.load(run / "bundle")
    assert bundle.class_names is not None and list(bundle.class_names) == ["cat", "dog", "horse"]
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
