"""Sphinx: how docs/ becomes pages. `make docs` builds them; nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import reference_pages  # noqa: E402  (lies beside this file)

from edgevit import __version__  # noqa: E402

project = "edgevit"
author = "the edgevit authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # links such as page.md#a-heading resolve, and a wrong one fails the build

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what is taken and returned; types are in the source
autodoc_class_signature = "separated"

nitpicky = True
suppress_warnings = ["myst.strikethrough"]

html_theme = "furo"
html_title = f"edgevit {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app: object) -> None:
    """Write the generated reference pages before Sphinx looks for sources."""
    reference_pages.write(HERE / "reference")
