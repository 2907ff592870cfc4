import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import offramp
from offramp.cli import app
from offramp.errors import BudgetError

VERBS = ["demo", "list"]


@pytest.mark.parametrize("verb", VERBS)
def test_verb_help_has_examples(verb: str) -> None:
    done = CliRunner().invoke(app, [verb, "--help"])
    assert done.exit_code == 0
    assert "Examples:\n" in done.output
    assert f"    offramp {verb}" in done.output


def test_help_names_every_verb() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert all(f"  {verb} " in done.output for verb in VERBS)


def test_module_runs_as_the_script_does() -> None:
    command = [sys.executable, "-m", "offramp", "list", "polices"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("offramp: nothing to list is called 'polices'; did you mean")
    assert done.stderr.count("\n") == 1


def test_errors_on_purpose_are_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BudgetError("wanted this,\n  got that")

    monkeypatch.setattr("offramp.demo.run_demo", fail)
    done = CliRunner().invoke(app, ["demo"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "offramp: wanted this, got that\n"


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("offramp.demo.run_demo", fail)
    done = CliRunner().invoke(app, ["demo"])
    assert isinstance(done.exception, ZeroDivisionError)


def test_version_is_the_one_of_the_project_file() -> None:
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["version"] == offramp.__version__
