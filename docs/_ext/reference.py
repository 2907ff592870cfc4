"""The reference, from what the package exports: a new public name needs no line in the docs.

`.. public:: offramp.train` lists and documents what that module exports; with `:registry: policies`
what is registered there. A name has one place: what ``offramp`` itself exports is documented under
that name, and other pages link to it.

Fields of data classes and named tuples carry their shape and unit in a comment behind them; that
comment becomes their text. Links to what is no part of the reference (torch, the standard library,
names inside the package) are shown as code; a name that is nowhere is still a warning. In Markdown,
``offramp.name`` in code type becomes a link by itself.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import TypeAliasForwardRef
from sphinx.util.nodes import make_refnode

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "offramp"
KINDS = ("function", "class", "error", "data")
OUTSIDE = re.compile(
    r"(torch|nn|fx|typing|collections|pathlib|abc|enum|types|datetime|os|numpy|np|pydantic|PIL|"
    r"safetensors|huggingface_hub|datasets|timm|torchvision|transformers|rich|typer|yaml)(\.|$)"
)
SHORT_OUTSIDE = {  # how signatures name what the standard library and torch have
    *dir(builtins),
    *("Any", "Callable", "ClassVar", "Generic", "Iterable", "Iterator", "Literal", "Mapping"),
    *("NamedTuple", "Path", "Self", "Sequence", "TypeVar", "AbstractContextManager"),
    *("DataLoader", "Dataset", "Generator", "Image", "Module", "Optimizer", "Tensor", "device"),
}


def exported(module: str) -> list[str]:
    """Names that a module exports, in the order of the file.

    A package exports what its ``__init__`` imports as itself; a module what it defines and what it
    imports as itself.
    """
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    again = [alias.name for node in imports for alias in node.names if alias.asname == alias.name]
    own = [name for node in tree.body for name in _defined(node)]
    names = dict.fromkeys([*again, *own])
    return [name for name in names if not name.startswith("_") and len(name) > 1]  # no TypeVars


def documented(module: str) -> dict[str, str]:
    """Exported names and the dotted name each is documented under."""
    home = importlib.import_module(module)
    top = importlib.import_module("offramp")
    found = {}
    for name in exported(module):
        thing = getattr(home, name)
        if inspect.ismodule(thing):
            found[name] = f"{module}.{name}"
        elif module != "offramp" and name in exported("offramp") and getattr(top, name) is thing:
            found[name] = f"offramp.{name}"
        else:
            found[name] = f"{module}.{name}"
    return found


def registered(registry: str) -> dict[str, str]:
    """Registered names and the dotted name of the class or function behind each."""
    entries = getattr(importlib.import_module("offramp.registry"), registry)
    things = {name: entries.get(name) for name in entries.names()}
    return {name: _dotted(thing) for name, thing in things.items()}


@cache
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for name in _defined(node) if isinstance(node, ast.Assign) else []:
                if re.fullmatch(r"[A-Z][A-Za-z]*[a-z][A-Za-z]*", name):
                    found.setdefault(name, f"{_module(file)}.{name}")
    return found


def aliases() -> dict[str, str]:
    """Names of type aliases, so that signatures show `State` and not what it stands for."""
    return dict(_aliases())


# ----------------------------------------------------------------------- the directive
class Public(SphinxDirective):
    """Document what a module exports, or what a registry holds."""

    required_arguments = 1
    option_spec: ClassVar[Any] = {
        "kind": lambda value: directives.choice(value, KINDS),
        "registry": directives.unchanged_required,
        "also": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """The table of names, and the entry of each."""
        module, registry = self.arguments[0], self.options.get("registry")
        lines = [".. py:currentmodule:: None", ""]  # names below are whole
        if registry:
            entries = registered(registry)
            names = list(dict.fromkeys(entries.values()))
            lines += _table(entries)
        else:
            names = [*documented(module).values(), *self.options.get("also", "").split()]
            kind = self.options.get("kind")
            names = [name for name in names if kind is None or _kind(name) == kind]
            lines += _summaries(names)
        for name in names:
            if name.startswith("offramp.") and (module == "offramp" or name.count(".") > 1):
                lines += self._entry(name)
        self.env.note_dependency(str(_file(module)))
        box = nodes.container()
        self.state.nested_parse(StringList(lines, f"{module} exports"), 0, box)
        return box.children

    def _entry(self, name: str) -> list[str]:
        kind = _kind(name)
        if kind == "data":
            module, _, alias = name.rpartition(".")
            directive = "data" if alias.isupper() else "type"
            return [f".. py:{directive}:: {name}", "", f"   {_alias_text(module, alias)}", ""]
        if kind == "function":
            return [f".. autofunction:: {name}", ""]
        if kind == "error":
            return [f".. autoexception:: {name}", "   :show-inheritance:", ""]
        return [f".. autoclass:: {name}", "   :members:", "   :undoc-members:", ""]


def _summaries(names: list[str]) -> list[str]:
    """A table of names, each a link, with the first line of what they say."""
    listed = [f"   ~{name}" for name in names if _kind(name) != "data"]
    return [".. autosummary::", "   :nosignatures:", "", *listed, ""] if listed else []


def _table(entries: dict[str, str]) -> list[str]:
    """A table of registered names, each a link to the class or function behind it."""
    lines = [".. list-table::", "   :widths: auto", ""]
    for name, dotted in entries.items():
        said = (inspect.getdoc(_find(dotted)) or "").partition("\n")[0]
        lines += [f"   * - :py:obj:`{name} <{dotted}>`", f"     - {_starred(said)}"]
    return [*lines, ""]


def _dotted(thing: Any) -> str:
    """Where a class or function can be found; one made in a function is found by what it is."""
    home = importlib.import_module(thing.__module__)
    name = next((n for n, value in vars(home).items() if value is thing), thing.__qualname__)
    return f"{thing.__module__}.{name}"


def _kind(dotted: str) -> str:
    thing, name = _find(dotted), dotted.rpartition(".")[2]
    if inspect.isclass(thing) and thing.__name__ == name:  # else it is an alias, such as `State`
        return "error" if issubclass(thing, BaseException) else "class"
    if inspect.isroutine(thing):
        return "function"
    return "module" if inspect.ismodule(thing) else "data"


def _find(dotted: str) -> Any:
    """The object of a dotted name; where a module and what it defines share a name, the latter."""
    first, *rest = dotted.split(".")
    thing, upto = importlib.import_module(first), first
    for part in rest:
        upto += f".{part}"
        try:
            thing = getattr(thing, part)
        except AttributeError:
            thing = importlib.import_module(upto)
    return thing


def _alias_text(module: str, name: str) -> str:
    """What an alias stands for, and the comment behind it."""
    for source in _candidates(module, name):
        tree = ast.parse(source)
        for node in tree.body:
            if name in _defined(node) and isinstance(node, ast.Assign | ast.AnnAssign):
                comment = _comment(source.splitlines()[(node.end_lineno or 1) - 1])
                text = f"``{ast.unparse(node.value)}``" if node.value is not None else ""
                return f"{text}; {comment}" if comment else text
    return ""


def _candidates(module: str, name: str) -> list[str]:
    """Source of the module, then of the module that it takes the name from."""
    source = _file(module).read_text(encoding="utf-8")
    found = [source]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            base = module.split(".")
            if _file(module).name != "__init__.py":
                base = base[:-1]
            base = base[: len(base) - node.level + 1] if node.level else []
            found.append(_file(".".join([*base, node.module or ""])).read_text(encoding="utf-8"))
    return found


# ----------------------------------------------------------------------- docstrings
def shapes(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as [N, C, *S] from starting emphasis."""
    code = False
    for number, line in enumerate(lines):
        code = line.lstrip().startswith((">>>", "...")) or (code and bool(line.strip()))
        if not code:
            lines[number] = _starred(line)


def _starred(line: str) -> str:
    parts = line.split("``")
    parts[::2] = [re.sub(r"\[[^\][]*\]", _escaped, part) for part in parts[::2]]
    return "``".join(parts)


def _escaped(match: re.Match[str]) -> str:
    return re.sub(r"(?<!\\)\*", r"\\*", match[0])


def returns(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon in ``Returns`` for a type.

    Types are in the signature alone. Napoleon looks at the first line, so that is cut short.
    """
    for number, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            body = lines[number + 1]
            first, gap, rest = body.strip().partition(" ")
            if gap and ":" in rest:
                indent = body[: len(body) - len(body.lstrip())]
                lines[number + 1 : number + 2] = [indent + first, indent + rest]


def unsigned(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Leave out the signature that pydantic makes for a section: it repeats the fields."""
    return ("", "") if hasattr(obj, "model_fields") else None


def unseen(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out how pydantic is set up."""
    return True if name == "model_config" else None


# ----------------------------------------------------------------------- fields and links
def fields(app: Sphinx) -> None:
    """Let autodoc take the comment behind a field for its text."""
    for file in sorted(PACKAGE.rglob("*.py")):
        analyzer = ModuleAnalyzer.for_module(_module(file))
        analyzer.analyze()
        lines = file.read_text(encoding="utf-8").splitlines()
        for owner in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(owner, ast.ClassDef):
                continue
            for entry in owner.body:
                comment = _comment(lines[(entry.end_lineno or 1) - 1])
                if isinstance(entry, ast.AnnAssign) and comment:
                    first, _, rest = _plain(comment).partition(" ")  # as in `returns`
                    for name in _defined(entry):
                        analyzer.attr_docs.setdefault((owner.name, name), [first, rest, ""])


def _comment(line: str) -> str:
    """The comment behind a line of code, without those for tools."""
    parts = [part.strip() for part in re.split(r"\s#\s", line)[1:]]
    told = [p for p in parts if not re.match(r"(pyright|type|noqa|ruff)\b", p)]
    return "; ".join(told)


def _plain(comment: str) -> str:
    """A comment is no reStructuredText: what has a meaning there is escaped."""
    parts = re.split(r"`+", comment)
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
    return "``".join(parts)


@cache
def _inside() -> frozenset[str]:
    """Every name that the package defines or takes as an argument."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        found.add(file.stem if file.stem != "__init__" else file.parent.name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return frozenset(found)


def as_code(app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.Node) -> nodes.Node | None:
    """Show a name outside the reference as code; None, which warns, where it is nowhere.

    A name that the reference has under another module's name, such as an alias, is a link.
    """
    target = str(node.get("reftarget", ""))
    last = target.rpartition(".")[2]
    if target.startswith("offramp."):
        objects = env.domains.python_domain.objects
        same = [full for full in objects if full.rpartition(".")[2] == last]
        if len(same) == 1:
            entry = objects[same[0]]
            here = node.get("refdoc", env.docname)
            return make_refnode(
                app.builder, here, entry.docname, entry.node_id, [contnode], same[0]
            )
    known = OUTSIDE.match(target) or target in SHORT_OUTSIDE or last in _inside()
    asked = node.get("refdomain") == "py" or node.get("reftype") == "any"
    return contnode if asked and known else None


class Links(SphinxTransform):
    """Make a link of every ``offramp.name`` in code type on the pages written in Markdown."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Wrap such code in a reference; one to a name that is nowhere warns."""
        if not str(self.env.doc2path(self.env.docname)).endswith(".md"):
            return
        for code in list(self.document.findall(nodes.literal)):
            name = code.astext()
            inside = isinstance(code.parent, nodes.reference | addnodes.pending_xref)
            if not inside and re.fullmatch(r"offramp(\.[A-Za-z]\w*)+", name):
                options = {"refdomain": "py", "reftype": "obj", "reftarget": name}
                link = addnodes.pending_xref("", refexplicit=True, refwarn=True, **options)
                link["refdoc"] = self.env.docname
                code.replace_self(link)
                link += code


# ----------------------------------------------------------------------- helpers
def _file(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _module(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    """Enter the directive and the hooks."""
    app.add_directive("public", Public)
    app.add_transform(Links)
    TypeAliasForwardRef.__repr__ = lambda self: f"~{self.name}"  # inside a union Sphinx shows this
    app.connect("autodoc-process-docstring", returns, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", shapes)
    app.connect("autodoc-process-signature", unsigned)
    app.connect("autodoc-skip-member", unseen)
    app.connect("builder-inited", fields)
    app.connect("missing-reference", as_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
