"""The command line: one file per verb, thin over the library.

Nothing here imports torch before a verb runs.
"""

from __future__ import annotations

import typer

from .copy import copy
from .demo import demo
from .eval import evaluate
from .fit import fit
from .frame import Verbs, root
from .list import list_names
from .predict import predict
from .profile import profile
from .report import report
from .routes import routes
from .sweep import sweep
from .train import train

app = typer.Typer(
    cls=Verbs,
    name="offramp",
    subcommand_metavar="VERB ...",
    epilog="`offramp VERB --help` has examples of each. First look: offramp demo",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("demo", short_help="See a network answer early, within a minute.")(demo)
app.command("list", short_help="List recipes, models, objectives, policies, data sets.")(list_names)
app.command("copy", short_help="Write a recipe to a file of your own.")(copy)
app.command("train", short_help="Train a recipe, to a folder with a bundle.")(train)
app.command("routes", short_help="Show which exit trains which segment.")(routes)
app.command("profile", short_help="Show what each exit costs, counted and timed.")(profile)
app.command("fit", short_help="Fit policies to budgets.")(fit)
app.command("sweep", short_help="Train gates for a range of alphas.")(sweep)
app.command("eval", short_help="Score fitted policies on the test part.")(evaluate)
app.command("report", short_help="Write a page about one or several runs.")(report)
app.command("predict", short_help="Answer for image files.")(predict)
app.callback(invoke_without_command=True)(root)
