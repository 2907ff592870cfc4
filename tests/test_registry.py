"""Registries find entries by name, and say what is valid where they do not."""

import sys
from pathlib import Path

import pytest

from offramp.errors import NameTakenError, OptionError, UnknownNameError
from offramp.registry import Registry


@pytest.fixture
def fruit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry over a package with one module, which enters one fruit when it is imported."""
    package = tmp_path / "fruit_package"
    package.mkdir()
    (package / "__init__.py").write_text("registry = None\n")
    (package / "apple.py").write_text(
        "import fruit_package\n\n"
        "@fruit_package.registry.register('apple')\n"
        "class Apple:\n"
        "    def __init__(self, colour, *, size=1):\n"
        "        self.colour, self.size = colour, size\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import fruit_package  # type: ignore[import-not-found]

    registry: Registry = Registry("fruit", "fruit_package")
    fruit_package.registry = registry
    yield registry
    for name in ("fruit_package.apple", "fruit_package"):
        sys.modules.pop(name, None)


def test_registry_imports_its_package_at_the_first_look_up(fruit: Registry) -> None:
    assert "fruit_package.apple" not in sys.modules
    assert fruit.names() == ["apple"]
    made = fruit.create("apple", "red", size=3)
    assert (made.colour, made.size) == ("red", 3)


def test_names_match_a_shell_pattern_and_are_sorted(fruit: Registry) -> None:
    for name in ("pear", "apricot", "Apple2"):
        fruit.register(name)(dict)
    assert fruit.names() == ["Apple2", "apple", "apricot", "pear"]
    assert fruit.names("ap*") == ["apple", "apricot"]
    assert fruit.names("plum*") == []


def test_unknown_name_lists_the_valid_ones_and_the_nearest(fruit: Registry) -> None:
    fruit.register("pear")(dict)
    with pytest.raises(UnknownNameError, match=r"did you mean 'apple'\? valid: apple, pear"):
        fruit.get("aple")
    with pytest.raises(UnknownNameError, match=r"named 'zzz'; valid: apple, pear"):
        fruit.create("zzz")


@pytest.mark.parametrize("options", [{"weight": 3}, {}, {"colour": "red", "size": 1, "x": 0}])
def test_wrong_options_are_named_with_those_taken(fruit: Registry, options: dict) -> None:
    with pytest.raises(OptionError, match=r"fruit 'apple': .*it takes \(colour, \*, size=1\)"):
        fruit.create("apple", **options)


def test_a_type_error_inside_a_factory_is_not_blamed_on_options(fruit: Registry) -> None:
    @fruit.register("broken")
    def broken() -> int:
        return len(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="has no len") as caught:
        fruit.create("broken")
    assert not isinstance(caught.value, OptionError)


def test_a_taken_name_is_refused_and_the_same_thing_may_come_again(fruit: Registry) -> None:
    def kiwi() -> str:
        return "kiwi"

    assert fruit.register("kiwi")(kiwi) is kiwi
    fruit.register("kiwi")(kiwi)
    with pytest.raises(NameTakenError, match="got 'kiwi', taken by"):
        fruit.register("kiwi")(dict)
    fruit.remove("kiwi")
    fruit.register("kiwi")(lambda: "another kiwi")
    assert fruit.create("kiwi") == "another kiwi"
    fruit.remove("nothing of that name")


def test_a_failed_import_hides_no_name_afterwards(
    fruit: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fruit_package  # type: ignore[import-not-found]

    broken = Path(fruit_package.__file__).with_name("aaa_broken.py")
    broken.write_text("import a_package_that_is_not_there\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
            fruit.get("apple")
    broken.unlink()
    assert fruit.names() == ["apple"]
