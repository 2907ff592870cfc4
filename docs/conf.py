"""How the documentation is built: `sphinx-build -W --keep-going -n docs out`; no network needed."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

import reference  # noqa: E402  # pyright: ignore[reportMissingImports]  # docs/_ext

from offramp import __version__  # noqa: E402

project = "offramp"
author = "the offramp authors"
project_copyright = "the offramp authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "reference",
    "commands",
]
exclude_patterns = ["_ext", "_build"]
default_role = "any"  # a name in single backticks is a link
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
napoleon_use_ivar = True
autosummary_generate = False  # pages are written by hand, their entries by docs/_ext/reference.py
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = reference.aliases()
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"offramp {version}"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
