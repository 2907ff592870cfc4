"""The folder of a run: what lies where, and how it is read."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle, load
from ..config import Config, load_config
from ..errors import RunError
from ..recipes import list_recipes
from ..records import load_records
from ..types import Records

CONFIG = "config.yaml"
SEED = "seed-"  # how the folders of a study's runs begin


@dataclass(frozen=True)
class Run:
    """One trained model and what was made of it, in one folder.

    ``config.yaml`` (resolved), ``metrics.jsonl``, ``checkpoints/``, ``gates.json``,
    ``records/calibration``, ``records/test``, ``policies/``, ``bundle/``, ``results.json``,
    ``sweep.json``, ``report.html``.
    """

    path: Path

    @property
    def config(self) -> Config:
        """The configuration that the run was made with."""
        return load_config(self.path / CONFIG)  # the folder may be named as a recipe is

    @property
    def bundle_path(self) -> Path:
        """Where the bundle is."""
        return self.path / "bundle"

    @property
    def policies_path(self) -> Path:
        """Where the fitted policies are."""
        return self.path / "policies"

    @property
    def results_path(self) -> Path:
        """Where the results are."""
        return self.path / "results.json"

    @property
    def gates_path(self) -> Path:
        """Where it is said what was found when gates were trained by themselves."""
        return self.path / "gates.json"

    @property
    def sweep_path(self) -> Path:
        """Where a sweep of gates over alpha is."""
        return self.path / "sweep.json"

    def records_path(self, part: str) -> Path:
        """Where the records of a part are."""
        return self.path / "records" / part

    def bundle(self) -> Bundle:
        """The bundle of a trained run.

        Raises:
            RunError: if the run is not trained to its end.
        """
        self.check_trained()
        return load(self.bundle_path)

    def calibration(self) -> Records:
        """Records of the calibration part.

        Raises:
            RunError: if the run is not trained to its end.
        """
        self.check_trained()
        return load_records(self._calibration_path)

    def results(self) -> dict[str, Any]:
        """The results of a run that was evaluated.

        Raises:
            RunError: if it was not.
        """
        return self.read_json(self.results_path, "eval")

    def check_trained(self) -> None:
        """Raise what says how to go on, where the run is not trained to its end.

        Raises:
            RunError: if it is not.
        """
        for file in (self.bundle_path / "bundle.json", self._calibration_path / "index.json"):
            self._wanted(file, "train", "--resume")

    def read_json(self, file: Path, verb: str) -> dict[str, Any]:
        """What a file of the run holds.

        Raises:
            RunError: if it is not there, and then which verb makes it, or is damaged.
        """
        self._wanted(file, verb)
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}") from None
        if not isinstance(found, dict):
            raise RunError(f"{file} is damaged: wanted a mapping, got a {type(found).__name__}")
        return found

    @property
    def _calibration_path(self) -> Path:
        return self.records_path("calibration")

    def _wanted(self, file: Path, verb: str, *options: str) -> None:
        if not file.is_file():
            command = shlex.join(["offramp", verb, str(self.path), *options])
            raise RunError(
                f"wanted {file.relative_to(self.path)} in the run {self.path}, which does not "
                f"have it yet: {command}"
            )


def is_run(source: str | Path) -> bool:
    """Whether a source of a configuration is the folder of a run, and no recipe of that name."""
    return str(source) not in list_recipes() and (Path(source) / CONFIG).is_file()


def open_runs(path: str | Path) -> list[Run]:
    """The run in a folder, or all runs of a study, in the order of their seeds.

    Raises:
        RunError: if the folder holds no run.
    """
    folder = Path(path)
    if (folder / CONFIG).is_file():
        return [Run(folder)]
    named = {entry: entry.name.removeprefix(SEED) for entry in folder.glob(f"{SEED}*")}
    found = [entry for entry, seed in named.items() if seed.isdigit()]
    runs = [Run(entry) for entry in sorted(found, key=lambda entry: int(named[entry]))]
    runs = [run for run in runs if (run.path / CONFIG).is_file()]
    if not runs:
        what = "is no folder" if not folder.is_dir() else "has neither config.yaml nor seed-* runs"
        raise RunError(f"wanted the folder of a run or of a study, got {folder}, which {what}")
    return runs
