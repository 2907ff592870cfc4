"""Importing offramp needs little, and what is missing is named."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import offramp
from offramp.errors import MissingExtraError, extra

PACKAGE = Path(offramp.__file__).parent

HEAVY = [
    *("torchvision", "timm", "transformers", "tokenizers", "datasets", "sklearn", "matplotlib"),
    *("PIL", "onnx", "onnxruntime", "torchmetrics", "accelerate", "pydantic", "typer", "rich"),
]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_offramp_loads_no_optional_package() -> None:
    loaded = python(
        "import sys, json, torch; before = set(sys.modules); import offramp; "
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    assert "offramp" in json.loads(loaded)
    assert [name for name in HEAVY if name in json.loads(loaded)] == []


def test_command_line_is_built_without_torch() -> None:
    code = (
        "import sys, types; package = types.ModuleType('offramp'); "
        f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['offramp'] = package; "
        "import offramp.cli; print('torch' in sys.modules, 'typer' in sys.modules)"
    )
    assert python(code).split() == ["False", "True"]


def test_public_names_exist() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    named = [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    ]
    names = {*named, *getattr(offramp, "__all__", ())}
    assert {"attach", "create_model", "fit", "measure", "record", "evaluate", "curve"} <= names
    assert [name for name in sorted(names) if not hasattr(offramp, name)] == []


def test_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with (
        pytest.raises(MissingExtraError, match=r"torchvision .*offramp\[vision\]"),
        extra("vision"),
    ):
        import torchvision  # noqa: F401


def test_digits_without_scikit_learn_name_the_data_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from offramp.registry import datasets

    for name in [m for m in sys.modules if m.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"sklearn.*offramp\[data\]"):
        datasets.create("digits", seed=0)


def test_plot_without_matplotlib_names_the_report_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from offramp.report.plot import accuracy_cost

    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib.*offramp\[report\]"):
        accuracy_cost({}, exits=[], full=(1.0, 0.9), path=tmp_path / "plot.png")
