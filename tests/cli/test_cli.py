"""What all verbs share: help, one line for bad input, exit codes, plug-ins."""

from __future__ import annotations

import errno
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import offramp
from offramp.cli import app
from offramp.errors import BudgetError, ConfigError, DataError
from offramp.registry import objectives

VERBS = [
    *("demo", "list", "copy", "train", "routes", "profile", "fit", "sweep", "eval", "report"),
    "predict",
]
Command = Callable[..., Any]

PLUGIN = """
from offramp.objectives.joint import Joint
from offramp.registry import objectives

@objectives.register("mine")
class Mine(Joint):
    \"\"\"An objective of one's own.\"\"\"
"""


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("offramp.demo.run_demo", fail)


# ------------------------------------------------------------------------ help
def test_verbs_are_those_of_the_design() -> None:
    assert list(typer.main.get_command(app).commands) == VERBS  # pyright: ignore


@pytest.mark.parametrize("verb", VERBS)
def test_verb_help_has_two_to_four_examples(verb: str, command: Command) -> None:
    said = command(verb, "--help")
    assert said.code == 0
    assert "Examples:\n" in said.out
    assert 2 <= said.out.count(f"    offramp {verb}") <= 4
    assert command(verb, "-h") == said


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_verb_with_a_whole_sentence(words: list[str], command: Command) -> None:
    said = command(*words)
    assert said.code == 0
    listed = said.out.partition("Commands:\n")[2].splitlines()
    shown = {line.split()[0]: line for line in listed if line.startswith("  ")}
    assert all(shown[verb].endswith(".") and "..." not in shown[verb] for verb in VERBS)


def test_version_is_the_one_that_the_project_file_takes(command: Command) -> None:
    root = Path(__file__).parents[2]
    settings = tomllib.loads(root.joinpath("pyproject.toml").read_text(encoding="utf-8"))
    said = root.joinpath(settings["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert f'__version__ = "{offramp.__version__}"' in said
    assert command("--version") == (0, f"offramp {offramp.__version__}\n", "")


# ------------------------------------------------------------------------ exit codes
def test_module_runs_as_the_script_does() -> None:
    command = [sys.executable, "-m", "offramp", "list", "polices"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("offramp: nothing to list is called 'polices'; did you mean")
    assert done.stderr.count("\n") == 1


def test_errors_on_purpose_are_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    fail_with(BudgetError("wanted this,\n  got that"), monkeypatch)
    assert command("demo") == (2, "", "offramp: wanted this, got that\n")


def test_error_of_a_loaders_worker_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    from torch.utils.data import DataLoader, Dataset

    class Damaged(Dataset[Any]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, row: int) -> Any:
            raise DataError("cannot decode the image cat.jpg: it is a dog")

    def read(*_: object, **__: object) -> None:
        list(DataLoader(Damaged(), num_workers=1))

    monkeypatch.setattr("offramp.demo.run_demo", read)
    wanted = "offramp: cannot decode the image cat.jpg: it is a dog\n"
    assert command("demo") == (2, "", wanted)


def test_config_errors_are_one_line_per_fault(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    fail_with(ConfigError(["a: wanted\nthis", "b: wanted that"]), monkeypatch)
    assert command("demo") == (2, "", "offramp: a: wanted this\nofframp: b: wanted that\n")


def test_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    fail_with(OSError(errno.ENOSPC, "No space left on device", "here"), monkeypatch)
    assert command("demo") == (2, "", "offramp: No space left on device: here\n")


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError("a library's own"), KeyError("x")])
def test_other_errors_are_not_hidden(
    error: Exception, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    fail_with(error, monkeypatch)
    with pytest.raises(type(error)):
        command("demo")


def test_interrupt_is_one_line_and_exit_130(
    monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert command("demo") == (130, "", "offramp: interrupted\n")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("offramp.runs.train", stop)
    said = command("train", "digits", "--out", tmp_path / "run")
    wanted = "offramp: interrupted; the same command with --resume goes on\n"
    assert said == (130, "", wanted)


def test_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m offramp list --json | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["trian"], "no such command 'trian'; did you mean 'train'; see offramp --help"),
        (["list", "--jsno"], "no such option: --jsno"),
        (["list", "a", "b", "c"], "; see offramp list --help"),
        (["train"], "; see offramp train --help"),
        (["fit", "run", "--budget", "half"], "invalid value for '--budget'"),
    ],
)
def test_misused_words_are_one_line_with_the_help_to_read(
    words: list[str], wanted: str, command: Command
) -> None:
    said = command(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("offramp: ") and said.err.count("\n") == 1
    assert wanted in said.err


# ------------------------------------------------------------------------ plug-ins
@pytest.mark.parametrize(
    "words",
    [
        ["--plugin", "my_offramp_plugin", "list", "objectives", "mine", "--json"],
        ["list", "objectives", "mine", "--json", "--plugin", "my_offramp_plugin"],
        ["list", "--plugin=my_offramp_plugin", "objectives", "mine", "--json"],
    ],
)
def test_plugin_registers_from_the_current_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    (tmp_path / "my_offramp_plugin.py").write_text(PLUGIN, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        said = command(*words)
        assert (said.code, said.out) == (0, '{\n  "objectives": [\n    "mine"\n  ]\n}\n')
    finally:
        sys.modules.pop("my_offramp_plugin", None)
        objectives.remove("mine")


def test_error_inside_a_plugin_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    (tmp_path / "broken_offramp_plugin.py").write_text("import not_there_at_all\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        command("--plugin", "broken_offramp_plugin", "list")
