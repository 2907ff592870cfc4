"""A config is checked as a whole: every fault is told at once, with what was wanted."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from offramp import fit
from offramp.config import Config, copy_config, dump_config, load_config, named_policies
from offramp.config.train import REST
from offramp.config.values import fields_of, misfit, options_of
from offramp.errors import ConfigError
from offramp.recipes import list_recipes
from offramp.registry import datasets, models, objectives, policies
from offramp.train.gate_fit import Fitting
from offramp.train.options import Options

REGISTRIES = {
    "data": datasets,
    "model": models,
    "objective": objectives,
    "policies": policies,
}
NAMED = [(section, name) for section, registry in REGISTRIES.items() for name in registry.names()]
SMALL = {"data": "digits", "model": "resnet20_cifar", "train": {"epochs": 1}}


def written(tmp_path: Path, tree: Any = None, **changes: Any) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes} if tree is None else tree), "utf-8")
    return path


def faults(source: str | Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert str(caught.value).splitlines() == caught.value.faults
    return caught.value.faults


def test_config_takes_names_alone_and_fills_in_every_default(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert (config.name, config.seed) == ("study", 0)
    assert (config.data.name, config.model.name, config.objective.name) == (
        "digits",
        "resnet20_cifar",
        "joint",
    )
    assert [policy.label for policy in config.policies] == ["max_prob"]
    assert all(budget > 0 for budget in config.budgets)
    wanted = {name: option.default for name, option in fields_of(Options).items()}
    given = config.train.options
    assert set(given) == set(wanted)
    assert Options(**given) == Options(**{**wanted, "epochs": 1, "milestones": [0.5, 0.75]})


def test_options_for_all_phases_agree_with_fit() -> None:
    parameters = inspect.signature(fit, eval_str=True).parameters
    assert {k: (v.type, v.default) for k, v in REST.items()} == {
        k: (parameters[k].annotation, parameters[k].default) for k in REST
    }
    ours = {"epochs", *fields_of(Options), *REST, "phases"}
    theirs = {"model", "data", "objective", "augment", "validation", "costs", "out", "resume"}
    assert set(parameters) == ours | theirs | {"seed", "device", "progress"}


@pytest.mark.parametrize("name", list_recipes())
def test_dump_reads_back_equal(tmp_path: Path, name: str) -> None:
    config = load_config(name)
    (tmp_path / "config.yaml").write_text(dump_config(config), "utf-8")
    again = load_config(tmp_path)  # as the folder of a run
    assert again == config
    assert dump_config(again) == dump_config(config)
    sections = Config.model_fields.keys() - (set() if config.gates else {"gates"})
    assert yaml.safe_load(dump_config(config)).keys() == sections


def test_dump_is_plain_data(tmp_path: Path) -> None:
    nested = {"name": "distill", "objective": {"name": "joint", "weights": "linear"}}
    config = load_config(written(tmp_path, objective=nested))
    tree = yaml.safe_load(dump_config(config))
    assert tree["objective"] == nested
    assert json.loads(json.dumps(tree)) == tree


# ------------------------------------------------------------------------ overrides
@pytest.mark.parametrize(
    ("override", "get", "wanted"),
    [
        ("train.epochs=3", lambda c: c.train.options["epochs"], 3),
        ("train.lr=1e-3", lambda c: c.train.options["lr"], 0.001),
        ("train.lr=2E3", lambda c: c.train.options["lr"], 2000.0),
        ("train.clip=1", lambda c: c.train.options["clip"], 1),
        ("train.clip=null", lambda c: c.train.options["clip"], None),
        ("model.at=[layer1,layer2.0]", lambda c: c.model.options["at"], ["layer1", "layer2.0"]),
        ("model=msdnet", lambda c: (c.model.name, c.model.options), ("msdnet", {})),
        ("objective.weights=linear", lambda c: c.objective.options, {"weights": "linear"}),
        ("seed=7", lambda c: c.seed, 7),
        ("name=other", lambda c: c.name, "other"),
        ("budgets=[0.5]", lambda c: c.budgets, [0.5]),
        ("budgets.0=0.9", lambda c: c.budgets[0], 0.9),
        ("policies.0=margin", lambda c: c.policies[0].name, "margin"),
        ("policies.0.temperature=true", lambda c: c.policies[0].options, {"temperature": True}),
        ("policies.3=fixed", lambda c: [p.name for p in c.policies][3:], ["fixed"]),
        ("train.phases.0.lr=.01", lambda c: c.train.phases, [{"lr": 0.01}]),
        ("gates.budget=0.5", lambda c: (c.gates.target, c.gates.value), ("budget", 0.5)),
        ("gates={alpha: 1}", lambda c: (c.gates.target, c.gates.value), ("alpha", 1)),
        ("train.train=[heads, 0]", lambda c: c.train.options["train"], ["heads", 0]),
        ("train.train=[head.0, fc]", lambda c: c.train.options["train"], ["head.0", "fc"]),
        ("name=a=b", lambda c: c.name, "a=b"),
    ],
)
def test_override_puts_a_yaml_value_in_place(override: str, get: Any, wanted: Any) -> None:
    config = load_config("digits", [override])
    assert get(config) == wanted
    assert type(get(config)) is type(wanted)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("train.epochs", "wanted key=value, such as train.epochs=3, got 'train.epochs'"),
        ("=3", "wanted key=value"),
        ("train..lr=3", "wanted key=value"),
        ("train.epochs.x=3", "train.epochs.x: train.epochs is 30, which has no parts"),
        ("name.x=3", "name.x: name is 'digits', which has no parts"),
        ("budgets.9=1", "budgets.9: wanted the number of an entry, 0 to 5, got '9'"),
        ("budgets.x=1", "wanted the number of an entry, 0 to 5, got 'x'"),
        ("policies.-1=1", "wanted the number of an entry, 0 to 3, got '-1'"),
        ("train.phases.1.lr=1", "wanted the number of an entry, 0 to 0, got '1'"),
        ("model.at=[a", "model.at: line 1, column"),
        ("model.at=*x", "got an alias"),
        ("model.at=!!python/name:os.system x", "could not determine a constructor"),
    ],
)
def test_override_that_cannot_be_put_in_place_is_told(override: str, wanted: str) -> None:
    [told] = faults("digits", override)
    assert wanted in told


# ------------------------------------------------------------------------ faults
FAULTS = [
    ("trian.epochs=3", "trian: no such section; did you mean 'train'? valid: train, "),
    ("seed=x", "seed: got 'x', wanted a whole number of at least 0"),
    ("seed=-1", "seed: got -1, wanted a whole number of at least 0"),
    ("name=../up", "name: got '../up', wanted what can name a folder"),
    ("data.name=digit", "data.name: no dataset is named 'digit'; did you mean 'digits'? valid: "),
    ("data=[a]", 'data: got ["a"], wanted the name of one dataset, valid: '),
    ("data.augment=crop", "data.augment: got 'crop', wanted a list"),
    ("data.augment=[corp]", "data.augment: no augmentation is named 'corp'"),
    ("data.augment=[{crop: {pading: 2}}]", "data.augment: ...pading"),
    ("data.seed=a", "data.seed: got 'a', wanted a whole number"),
    (
        "model.dpth=3",
        "model.dpth: no such option of the model 'resnet_cifar'; did you mean 'depth'",
    ),
    ("model.depth=deep", "model.depth: got 'deep', wanted a whole number"),
    ("model.depth=true", "model.depth: got true, wanted a whole number"),
    ("model.at=layer1", r"model.at: got 'layer1', wanted a list (each text)"),
    ("model.at=[1]", "model.at: got ...wanted a list"),
    ("model.block=wide", "model.block: got 'wide', wanted one of 'basic', 'bottleneck'"),
    ("model=", "model: missing, wanted the name of a model"),
    ("model={depth: 20}", 'model: got {"depth": 20}, wanted the name of one model'),
    ("model={name: timm, at: []}", "model.network: missing, the model 'timm' needs it"),
    ("objective=jiont", "objective.name: no objective is named 'jiont'; did you mean 'joint'"),
    ("objective.weights=up", "objective.weights: got 'up', wanted one of 'uniform', 'linear' or "),
    (
        "objective={name: distill, objective: jint}",
        "objective.objective.name: no objective...'jint'",
    ),
    (
        "objective={name: distill, objective: {wieghts: linear}}",
        "objective.objective.wieghts: no such option...did you mean 'weights'",
    ),
    ("objective={name: distill, teacher: 3}", "objective.teacher: got 3, wanted text"),
    ("train=fast", "train: got 'fast', wanted a mapping of options, such as epochs"),
    ("train.epochs=null", "train.epochs: missing, wanted a whole number of at least 1"),
    ("train.epochs=1.5", "train.epochs: got 1.5, wanted a whole number or null"),
    ("train.epochs=0", "train: wanted epochs as a whole number of at least 1, got 0"),
    ("train.lr=fast", "train.lr: got 'fast', wanted a number"),
    ("train.lr=-1", "train: wanted lr above 0, got -1"),
    (
        "train.epoch=3",
        "train.epoch: no such option of training; did you mean 'epochs'? valid: epochs",
    ),
    ("train.optimizer=sdg", "train.optimizer: got 'sdg', wanted one of 'sgd', 'adam', 'adamw'"),
    ("train.phases=3", "train.phases: got 3, wanted a list"),
    ("train.phases=[{eposh: 3}]", "train.phases.0.eposh: no such option...did you mean 'epochs'"),
    ("train.phases=[{epochs: 3, objective: x}]", "train.phases.0.objective.name: no objective"),
    ("train.phases=[{train: 1.5}]", "train.phases.0.train: got 1.5, wanted text or a whole number"),
    (
        "train.label_smoothing=0.1",
        "train.label_smoothing: give it to the objective: objective.label_smoothing=0.1",
    ),
    ("train.monitor=loss", "train.monitor: got 'loss', wanted accuracy/, nll/ or, for maps, miou/"),
    ("train.patience=0", "train.patience: got 0, wanted a whole number of at least 1"),
    ("train.workers=-1", "train.workers: got -1, wanted a number of at least 0"),
    ("train.save_every=-1", "train.save_every: got -1, wanted a number of at least 0"),
    ("train.workers=many", "train.workers: got 'many', wanted a whole number"),
    ("gates=0.5", "gates: got 0.5, wanted a mapping with one of budget, alpha, speedup, max_drop"),
    (
        "gates={}",
        "gates: got none of them, wanted one of budget, alpha, speedup, max_drop, such as",
    ),
    ("gates={unit: macs}", "gates: got none of them, wanted one of budget, alpha"),
    ("gates={alpha: 0.3, budget: 0.5}", "gates: got budget and alpha, wanted one of budget, alpha"),
    (
        "gates={bugdet: 0.5, alpha: 1}",
        "gates.bugdet: no such option of gates; did you mean 'budget'",
    ),
    ("gates.budget=half", "gates.budget: got 'half', wanted a number or null"),
    ("gates.budget=true", "gates.budget: got true, wanted a number or null"),
    ("gates.budget=0", "gates.budget: got 0, wanted a number above 0: mean cost over"),
    ("gates.budget=.nan", "gates.budget: got NaN, wanted a number above 0"),
    ("gates.budget=.inf", "gates.budget: got Infinity, wanted a number above 0"),
    ("gates.alpha=1.1", "gates.alpha: got 1.1, wanted a number in [0, 1]: weight of the cost"),
    ("gates.speedup=0.9", "gates.speedup: got 0.9, wanted a number of at least 1"),
    ("gates={speedup: 2, unit: macs}", "gates.unit: a speedup is...latency_ms; got 'macs'...0.5"),
    ("gates={alpha: 1, steps: 0}", "gates.steps: got 0, wanted a number of at least 1"),
    ("gates={alpha: 1, nats: 0}", "gates.nats: got 0, wanted a number above 0"),
    ("gates={alpha: 1, nats: much}", "gates.nats: got 'much', wanted a number or 'balanced'"),
    ("gates={alpha: 1, decay: -1.0}", "gates.decay: got -1.0, wanted a number of at least 0"),
    ("gates.max_drop=1", "gates.max_drop: got 1, wanted a number in [0, 1): accuracy below"),
    ("gates={alpha: 1, unit: flops}", "gates.unit: got 'flops', wanted one of 'macs', 'params'"),
    ("gates={alpha: 1, data: test}", "gates.data: got 'test', wanted one of 'train', 'validation'"),
    ("policies=[]", r"policies: got [], wanted a list with at least one policy"),
    ("policies=max_prob", "policies: got 'max_prob', wanted a list"),
    (
        "policies=[max_prb]",
        "policies.0.name: no policy is named 'max_prb'; did you mean 'max_prob'",
    ),
    ("policies=[{name: margin, temprature: 1}]", "policies.0.temprature: ...mean 'temperature'"),
    ("policies=[{name: margin, num_exits: 3}]", "policies.0.num_exits: comes from the model"),
    ("policies=[{name: margin, label: a/b}]", "policies.0.label: got 'a/b', wanted letters"),
    ("policies=[margin, margin]", "policies.1.label: 'margin' is taken"),
    ("policies=[oracle]", "policies.0: 'oracle' is a control, which cannot run"),
    ("budgets=0.5", "budgets: got 0.5, wanted a list of numbers above 0"),
    ("budgets=[half]", "budgets.0: got 'half', wanted a number above 0"),
    ("budgets=[0]", "budgets.0: got 0, wanted a number above 0"),
    ("budgets=[.inf]", "budgets.0: got Infinity, wanted a number above 0"),
    ("budgets=[0.5, 0.5]", "budgets.1: got 0.5 a second time"),
]


@pytest.mark.parametrize(("override", "wanted"), FAULTS, ids=[case[0] for case in FAULTS])
def test_fault_says_where_what_came_and_what_was_wanted(override: str, wanted: str) -> None:
    [told] = faults("digits", override)
    first, *rest = wanted.split("...")
    assert told.startswith(first)
    assert all(part in told for part in rest)


def test_all_faults_come_at_once() -> None:
    chosen = ["model.dpth=3", "train.lr=fast", "policies=[a, b]", "budgets=[0, x]", "seed=y", "foo"]
    told = faults("digits", *chosen)
    assert [line.partition(":")[0] for line in told] == [
        "wanted key=value, such as train.epochs=3, got 'foo'",
        *("seed", "model.dpth", "train.lr", "policies.0.name", "policies.1.name"),
        *("budgets.0", "budgets.1"),
    ]


def test_missing_sections_are_told_together(tmp_path: Path) -> None:
    told = faults(written(tmp_path, {"seed": 1}))
    assert [line.partition(":")[0] for line in told] == ["data", "model", "train"]


def test_null_stands_for_what_is_left_out(tmp_path: Path) -> None:
    empty = {"policies": None, "budgets": None, "objective": None, "seed": None, "name": None}
    assert load_config(written(tmp_path, **empty)) == load_config(written(tmp_path))


def test_gates_take_one_target_and_fill_in_the_rest() -> None:
    config = load_config("digits", ["gates={max_drop: 0.01, unit: params}"])
    assert config.gates is not None
    told = config.plain()["gates"]
    assert set(told) == {"max_drop", "unit", "data", "nats", *Fitting._fields}
    assert (told["max_drop"], told["unit"]) == (0.01, "params")
    timed = load_config("digits", ["gates={speedup: 2}"]).gates
    assert timed is not None and timed.unit == "latency_ms"
    assert load_config("digits").gates is None


def test_gates_tell_all_their_faults() -> None:
    told = faults("digits", "gates={unit: flops, data: test, alpah: 1}")
    places = [line.partition(":")[0] for line in told]
    assert places == ["gates.unit", "gates.data", "gates.alpah", "gates"]


def test_patience_needs_a_monitor(tmp_path: Path) -> None:
    [told] = faults(written(tmp_path, train={"epochs": 1, "patience": 3}))
    assert told == "train.monitor: missing, wanted what patience looks at"


def test_epochs_are_needed_once_for_every_phase(tmp_path: Path) -> None:
    phases = [{"epochs": 2, "train": "heads"}, {"lr": 0.01}]
    [told] = faults(written(tmp_path, train={"phases": phases}))
    assert told.startswith("train.phases.1.epochs: missing here and in train")
    config = load_config(written(tmp_path, train={"epochs": 1, "phases": phases}))
    assert config.train.phases == phases


def test_fault_of_all_phases_is_told_once(tmp_path: Path) -> None:
    phases = [{"train": "heads"}, {"momentum": 0.5}]
    train = {"epochs": 1, "lr": -1.0, "phases": phases}
    assert len(faults(written(tmp_path, train=train))) == 1


@pytest.mark.parametrize(("section", "name"), NAMED)
def test_unknown_option_of_anything_registered_lists_its_options(section: str, name: str) -> None:
    given = f"[{{name: {name}, zzz: 1}}]" if section == "policies" else f"{{name: {name}, zzz: 1}}"
    place = "policies.0" if section == "policies" else section
    told = [
        line for line in faults("digits", f"{section}={given}") if line.startswith(f"{place}.zzz:")
    ]
    known = options_of(REGISTRIES[section].get(name))
    assert known is not None
    shown = set(told[0].partition("valid: ")[2].split(", "))
    assert set(known) - {"num_exits"} <= shown


@pytest.mark.parametrize(("section", "name"), NAMED)
def test_defaults_of_anything_registered_are_of_their_types(section: str, name: str) -> None:
    for key, option in (options_of(REGISTRIES[section].get(name)) or {}).items():
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        if default is None or isinstance(default, bool | int | float | str | list):
            assert misfit(default, option.type) is None, key


# ------------------------------------------------------------------------ sources
def test_source_that_is_not_there_lists_the_recipes() -> None:
    [told] = faults("digist")
    assert "no recipe, file or run is named 'digist'; did you mean 'digits'? recipes: " in told
    assert all(name in told for name in list_recipes())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"\xff\xfe\x00", "wanted a text file in UTF-8"),
        (b"a: [", "line 1, column"),
        (b"a: 1\na: 2", "line 2, column 1: got the key 'a' a second time"),
        (b"model:\n  x: 1\n  x: 2", "line 3, column 3: got the key 'x' a second time"),
        (b"1: 2", "got the key '1', wanted a word as key"),
        (b"? [a]\n: 2", "wanted a word as key"),
        (b"a: &x 1\nb: *x", "got an alias"),
        (b"a: &x {k: 1}\nb: {<<: *x}", "got an alias"),
        (b"a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (b"a: !!set {x}", "wanted plain values, got a set"),
        (b"a: !!binary aGk=", "wanted plain values, got a bytes"),
        (b"a\x07: 1", "special characters are not allowed"),
        (b"- a", "wanted a mapping with data, model and train, got a list"),
        (b"", "wanted a mapping with data, model and train, got nothing"),
        (b"a: 1\n---\nb: 2", "expected a single document"),
        (b"[" * 1000, "nested too deeply"),
        (b"a: 0x", None),
    ],
)
def test_file_that_is_no_such_yaml_is_told(tmp_path: Path, text: bytes, wanted: str | None) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(text)
    told = faults(path)
    if wanted is not None:
        assert len(told) == 1
        assert told[0].startswith(f"{path}: ")
        assert wanted in told[0]


def test_dates_and_versions_stay_words(tmp_path: Path) -> None:
    config = load_config(written(tmp_path), ["name=2024-01-31"])
    assert config.name == "2024-01-31"


def test_folder_without_config_is_no_run(tmp_path: Path) -> None:
    [told] = faults(tmp_path)
    assert told == f"{tmp_path}: wanted the folder of a run, but it has no config.yaml"


def test_unreadable_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    [told] = faults(tmp_path)
    assert "no config.yaml" in told


def test_paths_that_exist_become_absolute_and_hub_ids_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()

    def path(given: str) -> str:
        return load_config("folder", [f"data.path={given}"]).data.options["path"]

    assert path("photos") == str(tmp_path / "photos")
    assert path("~/elsewhere") == str(tmp_path / "elsewhere")
    assert path("owner/name") == "owner/name"


# ------------------------------------------------------------------------ copies
def test_copy_keeps_comments_where_nothing_changes(tmp_path: Path) -> None:
    made = copy_config("mnist", tmp_path / "new" / "mine.yaml")
    assert made == tmp_path / "new" / "mine.yaml"
    assert made.read_text("utf-8").startswith("# offramp train mnist\n")
    assert load_config(made) == load_config("mnist")


def test_copy_with_changes_says_only_what_the_source_says(tmp_path: Path) -> None:
    made = copy_config("mnist", tmp_path / "mine.yaml", ["train.epochs=1"])
    tree = yaml.safe_load(made.read_text("utf-8"))
    source = yaml.safe_load(copy_config("mnist", tmp_path / "plain.yaml").read_text("utf-8"))
    assert tree == {**source, "train": {**source["train"], "epochs": 1}}
    assert load_config(made) == load_config("mnist", ["train.epochs=1"])


def test_copy_replaces_only_when_told_to(tmp_path: Path) -> None:
    made = copy_config("mnist", tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"mine.yaml is there already.*--force"):
        copy_config("digits", made)
    assert load_config(copy_config("digits", made, force=True)) == load_config("digits")


# ------------------------------------------------------------------------ policies alone
def test_named_policies_take_names_and_mappings() -> None:
    made = named_policies(["max_prob", "{name: entropy, temperature: true, label: warm}"])
    assert [(p.name, p.label, p.options) for p in made] == [
        ("max_prob", "max_prob", {}),
        ("entropy", "warm", {"temperature": True}),
    ]


def test_named_policies_tell_all_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        named_policies(["max_prb", "margn", "{name: entropy, x: 1}"])
    assert len(caught.value.faults) == 3
