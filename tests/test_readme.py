"""What the README says is so."""

import re
from pathlib import Path

import pytest

from offramp.registry import datasets, models, objectives, policies

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_readme_first_example_is_short_and_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = blocks("python")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    said: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), said)
    printed = capsys.readouterr().out
    accuracy = re.search(r"accuracy=([0-9.]+)", printed)
    assert accuracy is not None and float(accuracy[1]) > 0.8
    assert "tensor(" in printed


def test_readme_table_names_what_is_registered() -> None:
    table = [line for line in README.splitlines() if line.startswith("| ")]
    named = set(re.findall(r"`([a-z0-9_]+)`", "\n".join(table))) - {"attach"}
    assert named == {n for kind in (models, objectives, policies, datasets) for n in kind.names()}


def test_readme_files_and_targets_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_shows_its_figure_on_the_first_screen() -> None:
    lines = README.splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith("![")) <= 40
