"""What all verbs share: errors on purpose are one line on stderr, with an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import ConfigError, OfframpError
from ..version import __version__
from .plugins import import_plugins

_UsageError: Any = typer.BadParameter.__base__  # typer has a click of its own, or an installed one
_ClickException: Any = _UsageError.__base__
BAD_INPUT, INTERRUPTED = 2, 130


Plugin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE", help="Import a module of yours that registers things; repeat for several."
    ),
]
Version = Annotated[bool, typer.Option("--version", help="Print the version and stop.")]


def root(context: typer.Context, plugin: Plugin = None, version: Version = False) -> None:
    """Neural networks that answer early: train, fit to a budget, evaluate, report, predict.

    \b
    Examples:
      offramp train digits
      offramp fit runs/digits --budget 0.5
      offramp eval runs/digits
      offramp report runs/digits
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    if version:
        typer.echo(f"offramp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    import_plugins(plugin or [])


class Verbs(TyperGroup):
    """The verbs; bad input ends with one line and exit code 2, a bug keeps its traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the verb that the arguments name, and leave with its exit code."""
        words = _options_first(sys.argv[1:] if args is None else list(args))
        try:
            code = super().main(words, prog_name or "offramp", standalone_mode=False, **extra)
            sys.stdout.flush()  # what nobody reads fails here, and not at exit
        except _ClickException as error:
            code = _say(_usage(error))
        except ConfigError as error:
            code = _say(*error.faults)
        except OfframpError as error:
            code = _say(_own_words(error))
        except BrokenPipeError:
            code = _nobody_reads()
        except OSError as error:
            if error.errno is None:  # not the machine's: a library's own kind of error
                raise
            code = _say(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        except typer.Abort:
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; a keyboard interrupt says how to go on."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            again = "; the same command with --resume goes on"
            _say(f"interrupted{again if ctx.invoked_subcommand == 'train' else ''}")
            raise typer.Exit(INTERRUPTED) from None


def _say(*lines: str) -> int:
    for line in lines:
        typer.echo(f"offramp: {' '.join(line.split())}", err=True)
    return BAD_INPUT


def _own_words(error: OfframpError) -> str:
    """What an error says; where a DataLoader's worker raised it, torch puts a traceback before."""
    text = str(error)
    if text.startswith("Caught ") and "DataLoader worker" in text:
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text


def _usage(error: Any) -> str:
    """What is wrong with the words of a command, and where its options are listed."""
    told = " ".join(error.format_message().split()).rstrip(".?")
    told = told.replace(". Did you mean", "; did you mean")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "offramp"
    return f"{told[:1].lower()}{told[1:]}; see {command} --help"


def _options_first(words: Sequence[str]) -> list[str]:
    """The words with ``--plugin MODULE`` in front, so that it may stand after the verb too."""
    first, rest = [], []
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word == "--plugin":
            first += [word, *[value for value in [next(waiting, None)] if value is not None]]
        else:
            (first if word.startswith("--plugin=") else rest).append(word)
    return first + rest


def _nobody_reads() -> int:
    """Standard output is closed: be quiet about it, at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
