"""The command line: one file per verb, thin over the library.

Nothing here imports torch before a verb runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import OfframpError
from .demo import demo
from .list import list_names


class _Verbs(TyperGroup):
    """Verbs whose errors on purpose become one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OfframpError as error:
            typer.echo(f"offramp: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Verbs,
    name="offramp",
    help="Neural networks that answer early.",
    epilog="Example: offramp demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("list")(list_names)


@app.callback()
def _root() -> None:
    """Neural networks that answer early."""
