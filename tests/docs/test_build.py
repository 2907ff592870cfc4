"""The documentation builds without a warning, and the reference has every public name."""

from __future__ import annotations

import ast
import html
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import offramp
from offramp.cli import app
from offramp.recipes import recipe_path
from offramp.registry import datasets, models, objectives, policies

from .pages import DOCS, ROOT

missing = [n for n in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(n) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", str(DOCS)]
    # the network is not needed, and pointing proxies nowhere shows it
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = {**os.environ, **nowhere, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, str(out)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return out


def public_names(file: Path = ROOT / "src" / "offramp" / "__init__.py") -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [alias.asname for node in imports for alias in node.names if alias.asname]


def ids(page: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))


def plain(page: Path) -> str:
    """What a page says, its white space as single blanks."""
    text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
    return " ".join(html.unescape(text).split())


def test_every_public_name_is_in_the_reference(built: Path) -> None:
    names = public_names()
    assert len(names) >= 35
    found = ids(built / "api" / "offramp.html")
    pages = {path.stem for path in (built / "api").glob("*.html")}
    lacking = [n for n in names if f"offramp.{n}" not in found and n not in pages]
    assert lacking == []


MODULES = ("bundle", "config", "data", "recipes", "runs", "runtime", "train")


@pytest.mark.parametrize("module", MODULES)
def test_every_name_that_a_module_exports_is_in_the_reference(built: Path, module: str) -> None:
    file = ROOT / "src" / "offramp" / module / "__init__.py"
    names = public_names(file)
    names += re.findall(r"^def ([a-z]\w*)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(names) >= 2
    pages = [path for path in (built / "api").glob("*.html") if path.stem in (module, "offramp")]
    found = set().union(*map(ids, pages))
    lacking = [n for n in names if not {f"offramp.{module}.{n}", f"offramp.{n}"} & found]
    assert lacking == []


def test_command_line_page_has_what_every_help_says(built: Path) -> None:
    text = plain(built / "api" / "cli.html")
    main: Any = typer.main.get_command(app)
    assert len(main.commands) >= 9
    for name, command in main.commands.items():
        context = typer.Context(command, info_name=f"offramp {name}")
        told = [p.get_help_record(context) for p in command.params]
        said = [part for record in told if record for part in record]
        said += command.help.partition("\b")[0].replace("`", "").split("\n\n")
        said += command.help.partition("Examples:")[2].splitlines()
        lacking = [part for part in said if " ".join(part.split()) not in text]
        assert lacking == [], name
        assert f'id="offramp-{name}"' in (built / "api" / "cli.html").read_text(encoding="utf-8")


def test_recipes_page_has_every_recipe_whole(built: Path) -> None:
    text = plain(built / "api" / "recipes.html")
    for name in offramp.list_recipes():
        assert " ".join(recipe_path(name).read_text(encoding="utf-8").split()) in text, name


@pytest.mark.parametrize(
    ("page", "registry"),
    [("backbones", models), ("objectives", objectives), ("policies", policies), ("data", datasets)],
)
def test_every_registered_name_is_in_the_reference(
    built: Path, page: str, registry: object
) -> None:
    text = (built / "api" / f"{page}.html").read_text(encoding="utf-8")
    shown = set(re.findall(r">(\w+)</span></code></a>", text))
    assert set(registry.names()) - shown == set()  # type: ignore[attr-defined]


def test_reference_shows_what_docstrings_say(built: Path) -> None:
    text = (built / "api" / "offramp.html").read_text(encoding="utf-8")
    said = plain(built / "api" / "offramp.html")
    assert "[K], multiply-accumulates for one input" in said  # the comment behind a field
    assert "[K, N, C, *S], or K arrays" in said  # a shape, its star not emphasis
    assert "TypeAliasForwardRef" not in said and "system-message" not in text
    assert all(word in said for word in ("Parameters", "Raises", "Example"))


def test_every_page_is_self_contained(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert loaded == [], page.name


def test_version_is_the_package_s(built: Path) -> None:
    assert offramp.__version__ in (built / "index.html").read_text(encoding="utf-8")
