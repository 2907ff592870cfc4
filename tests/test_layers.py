"""A module imports only from the layers below its own, in its own layer only where said so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "offramp"

LAYERS = (
    ("types", "errors", "registry", "trees", "files", "modes", "version", "examples"),
    ("functional", "mixture", "placement", "together"),
    ("heads", "backbones", "objectives", "policies"),
    ("model", "attach", "places", "costs"),
    ("records", "metrics", "data", "train", "gates"),
    ("results", "evaluate", "bundle", "runtime", "export"),
    ("config", "recipes", "report", "runs", "serve", "cli", "demo"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Within a layer a part may import another only in this order. Layer 2 is strict: objectives and
# policies import nothing of their layer, backbones only heads. The other layers are ordered so
# that no circle can form.
SAME_LAYER = {
    "backbones": {"heads"},
    "types": {"errors", "trees"},
    "trees": {"errors"},
    "registry": {"errors"},
    "examples": {"errors", "trees"},
    "attach": {"model", "places", "costs"},
    "places": {"model", "costs"},
    "costs": {"model"},
    "train": {"metrics", "data", "records"},
    "records": {"data", "metrics"},
    "gates": {"train"},
    "evaluate": {"results"},
    "bundle": {"evaluate"},
    "runtime": {"evaluate"},
    "export": {"runtime"},
    "demo": {"report"},
    "cli": {"config", "recipes", "report", "runs", "serve", "demo"},
    "runs": {"config", "recipes"},
    "report": {"config", "runs"},
    "serve": {"config"},
    "config": {"recipes"},
}

MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).name != "__main__.py")


def dotted(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(source: str, module: tuple[str, ...], is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of offramp, wherever in the file it stands."""
    here = module if is_package else module[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if is_ours(a.name))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if origin == "offramp":
                yield from ((node.lineno, f"offramp.{alias.name}") for alias in node.names)
            elif is_ours(origin):
                yield node.lineno, origin


def is_ours(name: str) -> bool:
    return name == "offramp" or name.startswith("offramp.")


def complaints(source: str, module: tuple[str, ...], is_package: bool) -> list[str]:
    """What a module imports that it must not."""
    if len(module) == 1:  # offramp/__init__.py gathers the public names
        return []
    own, found = module[1], []
    if own not in LEVEL:
        return [f"{'.'.join(module)} is in no layer: add it to LAYERS"]
    for line, name in imports(source, module, is_package):
        other = name.split(".")[1] if "." in name else ""
        if other not in LEVEL:
            found.append(f"line {line}: {name} is in no layer (import from the module itself)")
        elif other == own:
            continue
        elif LEVEL[other] > LEVEL[own]:
            found.append(f"line {line}: {own} (layer {LEVEL[own]}) imports {name} from above")
        elif LEVEL[other] == LEVEL[own] and other not in SAME_LAYER.get(own, set()):
            found.append(f"line {line}: {own} imports {name} of its own layer, {LEVEL[own]}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: ".".join(dotted(p)))
def test_module_imports_only_lower_layers(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert complaints(source, dotted(path), path.name == "__init__.py") == []


# what several plug-ins of a package need: the base of all, and the lambda of those that learn gates
SHARED = {"policies": ("base", "points"), "objectives": ("base", "gated", "pressure")}


@pytest.mark.parametrize("package", sorted(SHARED))
def test_plug_ins_import_only_their_own_base(package: str) -> None:
    for path in sorted((PACKAGE / package).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        for line, name in imports(source, dotted(path), path.name == "__init__.py"):
            if name.startswith(f"offramp.{package}"):
                allowed = {f"offramp.{package}.{shared}" for shared in SHARED[package]}
                assert name in allowed, f"{path.name}:{line} imports {name}"


def test_same_layer_order_has_no_circle() -> None:
    left = {name: set(SAME_LAYER.get(name, ())) for name in LEVEL}
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert left == {}


@pytest.mark.parametrize(
    ("module", "source", "wanted"),
    [
        ("policies.new", "from ..model import MultiExitModel", "from above"),
        ("policies.new", "from ..heads.linear import LinearHead", "of its own layer"),
        ("policies.new", "from offramp.objectives.joint import Joint", "of its own layer"),
        ("objectives.new", "import offramp.backbones.cut", "of its own layer"),
        ("backbones.new", "def f():\n    from ..train.loop import fit", "from above"),
        ("costs", "if TYPE_CHECKING:\n    from .records import record", "from above"),
        ("runtime.adaptive", "from .. import create_policy", "in no layer"),
        ("utils", "", "in no layer"),
    ],
)
def test_layer_check_finds_planted_violations(module: str, source: str, wanted: str) -> None:
    found = complaints(source, ("offramp", *module.split(".")), is_package=False)
    assert len(found) == 1
    assert wanted in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("policies.new", "from ..functional import log_odds\nfrom .base import ExitPolicy"),
        ("backbones.new", "from ..heads.conv import ConvHead"),
        ("runtime.adaptive", "from ..model import MultiExitModel\nimport torch"),
        ("cli.demo", "from ..demo import run_demo"),
    ],
)
def test_layer_check_accepts_what_is_allowed(module: str, source: str) -> None:
    assert complaints(source, ("offramp", *module.split(".")), is_package=False) == []
