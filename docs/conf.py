"""How the documentation site is built: `make docs`, warnings are errors."""

import re
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

from ticketry import __version__

project = "ticketry"
release = version = __version__
copyright = "the ticketry authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style")]
napoleon_use_ivar = True
html_theme = "furo"
html_title = f"ticketry {release}"
html_show_sphinx = False

lexers["csv"] = TextLexer()


def keep_marks(*arguments: Any) -> None:
    """Docstrings write |x| and a*b as they are read; only literals are markup in them."""
    lines: list[str] = arguments[-1]
    for at, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
        lines[at] = "".join(parts)


def setup(app: Any) -> None:
    """Run before napoleon reads a docstring's sections."""
    app.connect("autodoc-process-docstring", keep_marks, priority=100)
