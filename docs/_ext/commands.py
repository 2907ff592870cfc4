"""The pages of the command line and of the recipes, from the typer app and the files themselves.

`.. verbs::` makes a section of every verb from what its ``--help`` says; `.. recipes::` one of
every recipe that ships, its text in full. So neither can fall behind the program.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from offramp.cli import app
from offramp.recipes import list_recipes, recipe_path, recipe_summary

_EXAMPLES = re.compile(r"^\s*Examples:\n(.*)", flags=re.DOTALL | re.MULTILINE)


class Verbs(SphinxDirective):
    """A section for the command itself, and one per verb, in the order of its help."""

    def run(self) -> list[nodes.Node]:
        """What ``--help`` says of each."""
        main: Any = typer.main.get_command(app)
        verbs = [_section(command, f"offramp {name}") for name, command in main.commands.items()]
        return [_section(main, "offramp"), *verbs]


class Recipes(SphinxDirective):
    """A section per recipe: what it says of itself, and its file."""

    def run(self) -> list[nodes.Node]:
        """The files as they ship."""
        made = []
        for name in list_recipes():
            self.env.note_dependency(str(recipe_path(name)))
            text = recipe_path(name).read_text(encoding="utf-8")
            section = _titled(name, f"recipe-{name}")
            section += [_paragraph(recipe_summary(name)), _code(text, "yaml")]
            made.append(section)
        return made


def _section(command: Any, title: str) -> nodes.section:
    context = typer.Context(command, info_name=title)
    section = _titled(title, title.replace(" ", "-"))
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    text, _, rest = (command.help or "").partition("\b")
    section += [_paragraph(part) for part in re.split(r"\n\s*\n", text.strip())]
    section += _code(usage, "text")
    if examples := _EXAMPLES.search(rest):
        section += _code("\n".join(map(str.strip, examples[1].strip().splitlines())), "sh")
    section += _parameters(command, context)
    return section


def _parameters(command: Any, context: Any) -> nodes.definition_list:
    """Arguments and options, as the help lists them."""
    made = nodes.definition_list()
    for parameter in command.get_params(context):
        left, right = parameter.get_help_record(context) or ("", "")
        if left and parameter.name != "help":
            term = nodes.term("", "", nodes.literal(text=left))
            made += nodes.definition_list_item(
                "", term, nodes.definition("", _paragraph(" ".join(right.split())))
            )
    return made


def _titled(title: str, name: str) -> nodes.section:
    return nodes.section("", nodes.title(text=title), ids=[nodes.make_id(name)], names=[name])


def _paragraph(text: str) -> nodes.paragraph:
    """A paragraph, what stands in backticks as code, and two dashes as two dashes."""
    parts = re.split(r"`([^`]*)`", " ".join(text.split()))
    children = [nodes.literal(text=p) if n % 2 else nodes.Text(p) for n, p in enumerate(parts)]
    return nodes.paragraph("", "", *children, support_smartquotes=False)


def _code(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def setup(app: Sphinx) -> dict[str, Any]:
    """Enter the directives."""
    app.add_directive("verbs", Verbs)
    app.add_directive("recipes", Recipes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
