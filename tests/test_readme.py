"""What the README says is so."""

import re
import tomllib
from pathlib import Path

import pytest

from offramp.recipes import list_recipes
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


def rows(heading: str) -> dict[str, str]:
    """The table under a heading: its first column, and the rest of the row."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ", 1) for line in section.splitlines() if line[:2] == "| "]
    return {first: rest for first, rest in lines[1:]}


def code(text: str) -> set[str]:
    return set(re.findall(r"`([a-z0-9_]+)`", text))


def test_readme_names_are_those_that_there_are() -> None:
    table = {kind: code(rest) - {"attach"} for kind, rest in rows("Names").items()}
    assert table == {
        "models": set(models.names()),
        "objectives": set(objectives.names()),
        "policies": set(policies.names()),
        "data sets": set(datasets.names()),
        "recipes": set(list_recipes()),
    }


def test_readme_methods_have_every_objective_and_policy_and_nothing_that_is_not_there() -> None:
    named = code("\n".join(rows("Methods").values()))
    assert named >= {*objectives.names(), *policies.names()}
    assert named <= {*objectives.names(), *policies.names(), *models.names()}


def test_readme_has_all_four_lines_of_research() -> None:
    methods = " ".join(rows("Methods"))
    assert all(f"[{name}]" in methods for name in ("Block-dependent losses", "EENet", "EENets"))
    assert "[LEENet]" in methods


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_and_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https:")]
    assert len(links) > 4
    for link in links:
        file, _, heading = link.partition("#")
        assert (ROOT / file).is_file(), link
        titles = (
            re.findall(r"^#+ (.*)", (ROOT / file).read_text("utf-8"), flags=re.MULTILINE)
            if heading
            else []
        )
        slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not heading or heading in slugs, link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_shows_its_figure_on_the_first_screen() -> None:
    lines = README.splitlines()
    first = lines[: next(i for i, line in enumerate(lines) if line.startswith("!["))]
    assert len(first) <= 40
    assert len([line for line in first if line.startswith("- **")]) == 5


def test_readme_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    assert code(README.split("name the extras you need:")[1].split("(")[0]) == (
        extras - {"all", "docs", "dev"}
    )
