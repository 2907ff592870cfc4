"""Three bad inputs per verb, from one table: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from offramp.cli import app

VERBS = sorted(typer.main.get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]


def words(text: str) -> Callable[[Path], list[str | Path]]:
    """A command, in which HERE stands for the test's folder."""
    return lambda here: [each.replace("HERE", str(here)) for each in text.split()]


# the command after `offramp`, what the line must say
TABLE: list[tuple[str, str]] = [
    ("demo --out HERE/file", "wanted a folder to write to, got HERE/file"),
    ("demo --seed -1", "invalid value for '--seed'"),
    ("demo --qick", "no such option: --qick"),
    ("demo now", "unexpected extra argument"),
    ("list polices", "nothing to list is called 'polices'; did you mean 'policies'?"),
    ("list models zz*", "got 'zz*'"),
    ("list --jsn", "no such option: --jsn"),
    ("copy dgits", "no recipe, file or run is named 'dgits'; did you mean 'digits'? recipes: "),
    ("copy digits HERE/new.yaml train.epohs=3", "train.epohs: no such option of training; did "),
    ("copy digits HERE/file", "HERE/file is there already: wanted another path, or --force"),
    ("copy digits HERE/new.yaml old.yaml", "wanted one path and then key=value, got 'old.yaml'"),
    ("copy digits HERE --force", "wanted a file to write, got the folder HERE"),
    ("copy digits HERE/file/new.yaml", "HERE/file"),
    ("copy", "missing argument"),
    ("train dgits --out HERE/new", "no recipe, file or run is named 'dgits'; did you mean"),
    ("train digits modle.depth=8 --out HERE/new", "modle: no such section; did you mean 'model'?"),
    ("train digits model.depth=9 --out HERE/new", "wanted a depth of 6n + 2"),
    ("train digits model.in_channels=3 --out HERE/new", "does not take inputs of shape 1x8x8"),
    ("train digits budgets=[0.01] --out HERE/new", "a budget of 0.01 is out of reach"),
    (
        "train digits model.gate=true --out HERE/new "
        'train.phases=[{"epochs":1},{"epochs":1,"objective":{"name":"mixture","target_cost":0.01}}]',
        "a target_cost of 0.01 is out of reach",
    ),
    (
        "train digits --out HERE/new "
        'train.phases=[{"epochs":1},{"epochs":1,"objective":{"name":"distill","objective":"mixture"}}]',
        "wanted a gate at each of the",
    ),
    ("train folder data.path=HERE/empty", "in HERE/empty, got [], and no images"),
    ("train digits --out HERE/file/new", "HERE/file/new"),
    ("train digits train.lr=fast --out HERE/new", "train.lr: got 'fast', wanted a number"),
    ("train digits train.monitor=x --out HERE/new", "train.monitor: got 'x', wanted accuracy/"),
    ("train folder data.path=HERE/nowhere --out HERE/new", "HERE/nowhere"),
    ("train mnist data.path=HERE/full --out HERE/new", "wanted the column 'label'"),
    ("train digits --seeds 0 --out HERE/new", "invalid value for '--seeds'"),
    ("train digits --out HERE/file", "wanted a folder for the run, got the file HERE/file"),
    ("train digits --out HERE/full", "got HERE/full with other files"),
    ("train digits --device gpu --out HERE/new", "wanted a device that is here"),
    ("train HERE/file", "wanted a mapping with data, model and train"),
    ("train HERE/trained", "holds a run already"),
    ("train HERE/trained train.lr=0.3 --resume", "wanted the configuration that"),
    ("routes", "missing argument"),
    ("routes dgits", "no recipe, file or run is named 'dgits'; did you mean 'digits'?"),
    ("routes digits objective=layerwise", "no objective is named 'layerwise'; did you mean"),
    (
        "routes digits objective=grouped objective.groups=9",
        "wanted groups of 4 segments in all, at least 1 in each, got 9",
    ),
    ("routes digits objective=grouped objective.groups=0", "wanted groups as a number of groups"),
    ("routes HERE/full", "wanted the folder of a run, but it has no config.yaml"),
    ("profile digts", "no recipe, file or run is named 'digts'; did you mean 'digits'?"),
    ("profile digits model.dpth=8", "model.dpth: no such option of the model 'resnet_cifar'"),
    ("profile digits --batch-size 0", "invalid value for '--batch-size'"),
    ("profile digits --shape 3x8x8", "the model does not take inputs of shape 3x8x8"),
    ("profile digits --shape wide", "wanted the shape of one input, such as 3,32,32, got 'wide'"),
    ("profile digits --device gpu", "wanted a device that is here, such as cpu"),
    ("profile HERE/full", "wanted the folder of a run, but it has no config.yaml"),
    ("profile HERE/trained/bundle train.lr=1", "wanted no key=value with a bundle"),
    ("fit HERE/nowhere", "wanted the folder of a run or of a study, got HERE/nowhere"),
    ("fit HERE/full", "wanted the folder of a run or of a study, got HERE/full"),
    ("fit HERE/begun", "which does not have it yet: offramp train HERE/begun --resume"),
    ("fit HERE/trained --policy max_prb", "no policy is named 'max_prb'; did you mean 'max_prob'?"),
    ("fit HERE/trained --policy oracle", "'oracle' is a control"),
    ("fit HERE/trained --budget 0.01", "0.01"),
    ("fit HERE/half", "which does not have it yet: offramp train HERE/half/seed-1 --resume"),
    ("fit HERE/trained --policy {name:oops", "policy: line 1"),
    ("fit HERE/trained --budget half", "invalid value for '--budget'"),
    ("fit HERE/trained --unit flops", "flops"),
    ("fit HERE/broken", "HERE/broken"),
    ("sweep HERE/nowhere", "wanted the folder of a run or of a study, got HERE/nowhere"),
    ("sweep HERE/begun", "which does not have it yet: offramp train HERE/begun --resume"),
    ("sweep HERE/trained", "wanted one gate at every early exit, got 0 at exit 0; gate=True"),
    ("sweep HERE/trained --alphas 1", "invalid value for '--alphas'"),
    ("sweep HERE/trained --unit flops", "wanted unit as one of macs, params, latency_ms, got"),
    ("sweep HERE/trained --data test", "wanted data as one of train, validation, got 'test'"),
    ("sweep HERE/trained --nats 0", "wanted nats as a positive number or 'balanced', got 0.0"),
    (
        "sweep HERE/trained --nats much",
        "wanted nats as a positive number or 'balanced', got 'much'",
    ),
    ("sweep HERE/trained --device gpu", "wanted a device that is here"),
    ("train digits gates.budget=0.5 --out HERE/new", "gates: wanted one gate at every early exit"),
    ("eval HERE/nowhere", "wanted the folder of a run or of a study, got HERE/nowhere"),
    ("eval HERE/begun", "which does not have it yet: offramp train HERE/begun --resume"),
    ("eval HERE/trained", "wanted fitted policies in the run HERE/trained"),
    (
        "eval HERE/unlike",
        "wanted the same policies and budgets in every run of a study",
    ),
    ("eval HERE/scored --device gpu", "wanted a device that is here"),
    ("eval HERE/trained --clok", "no such option: --clok"),
    ("report", "missing argument"),
    ("report HERE/nowhere", "wanted the folder of a run or of a study, got HERE/nowhere"),
    ("report HERE/trained", "which does not have it yet: offramp eval HERE/trained"),
    ("report HERE/scored HERE/trained", "which does not have it yet: offramp eval HERE/trained"),
    ("report =HERE/scored", "wanted LABEL=RUN, such as joint=runs/joint, got '=HERE/scored'"),
    ("report a=HERE/nowhere", "wanted the folder of a run or of a study, got HERE/nowhere"),
    ("report HERE/scored --baseline b", "wanted the baseline as the name of a study, digits; got"),
    ("report HERE/scored HERE/scored", "wanted every seed of 'digits' once, got 0 again"),
    ("report a=HERE/scored b=HERE/resized", "test inputs: wanted ["),
    ("report a=HERE/scored b=HERE/maps", "HERE/maps/results.json: task: wanted 'label'"),
    ("report HERE/scored --out HERE", "wanted a file to write to, got the folder HERE"),
    ("report HERE/scored --out HERE/file/page.html", "HERE/file"),
    ("predict HERE/nowhere HERE/file", "HERE/nowhere"),
    ("predict HERE/trained HERE/file", "wanted a bundle with a fitted policy, got one without"),
    ("predict HERE/scored HERE/file", "wanted an image file, got HERE/file"),
    ("predict HERE/scored HERE/nowhere.png", "HERE/nowhere.png"),
    ("predict HERE/scored HERE/empty", "wanted a folder with images, got HERE/empty"),
    ("predict HERE/scored HERE/image.png --budget 0.77", "0.77"),
    ("predict HERE/scored", "missing argument"),
    ("trian digits", "no such command 'trian'; did you mean 'train'"),
    ("--plugin nope_nope list", "--plugin: no module is named 'nope_nope'"),
    ("list --plugin my/module.py", "--plugin: got 'my/module.py', wanted the name of a module"),
    ("--plugin", "--plugin"),
]


def test_every_verb_has_three_bad_inputs() -> None:
    rows = Counter(text.split()[0] for text, _ in TABLE)
    assert {verb: rows[verb] for verb in VERBS if rows[verb] < 3} == {}


@pytest.mark.parametrize(("text", "wanted"), TABLE, ids=[text for text, _ in TABLE])
def test_bad_input_is_one_line_and_writes_nothing(
    text: str,
    wanted: str,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path, text, request)
    before = tree(tmp_path)
    said = command(*words(text)(tmp_path))
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("offramp: ")
    assert said.err.count("\n") == 1, said.err
    assert wanted.replace("HERE", str(tmp_path)) in said.err
    assert "Traceback" not in said.err
    assert tree(tmp_path) == before


def furnish(here: Path, text: str, request: pytest.FixtureRequest) -> None:
    """What the commands may find: files and folders, and runs where the command names one."""
    (here / "file").write_text("no image and no YAML mapping\n", "utf-8")
    (here / "empty").mkdir()
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("somebody's\n", "utf-8")
    if "image.png" in text:
        from PIL import Image

        Image.new("L", (8, 8)).save(here / "image.png")
    for name in ("trained", "scored"):
        if f"HERE/{name}" in text:
            request.getfixturevalue(name)
    if "HERE/begun" in text:
        trained: Path = request.getfixturevalue("trained")
        (here / "begun").mkdir()
        (trained / "config.yaml").rename(here / "begun" / "config.yaml")
    if "HERE/half" in text:
        trained = request.getfixturevalue("trained")
        shutil.copytree(trained, here / "half" / "seed-1")
        shutil.rmtree(here / "half" / "seed-1" / "bundle")
        trained.rename(here / "half" / "seed-0")
    if "HERE/unlike" in text:
        scored: Path = request.getfixturevalue("scored")
        shutil.copytree(scored, here / "unlike" / "seed-1")
        scored.rename(here / "unlike" / "seed-0")
        index = here / "unlike" / "seed-1" / "policies" / "index.json"
        index.write_text(index.read_text("utf-8").replace('"0.5": 0.5', '"0.5": 0.6'), "utf-8")
    for name, changes in (("resized", {"num_test": 7}), ("maps", {"task": "map", "samples": None})):
        if f"HERE/{name}" in text:
            shutil.copytree(here / "scored", here / name)
            file = here / name / "results.json"
            results = json.loads(file.read_text("utf-8")) | changes
            for exit_ in results["exits"]:
                exit_["miou"] = 0.5
            file.write_text(json.dumps(results), "utf-8")
    if "HERE/broken" in text:
        trained = request.getfixturevalue("trained")
        trained.rename(here / "broken")
        weights = here / "broken" / "bundle" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path in a folder, and what its file holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
