"""Sphinx configuration; `make docs` builds the site in docs/_build."""

import re
from typing import Any

project = "Digit service"
html_title = project
html_theme = "furo"
extensions = ["myst_parser", "sphinx_argparse_cli", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # levels of headings; anchors are GitHub's
myst_fence_as_directive = ["mermaid"]
smartquotes = False  # `--option` keeps its hyphens


def setup(app: Any) -> None:
    app.connect("source-read", link_files)


def link_files(_app: Any, _page: str, source: list[str]) -> None:
    """Link Markdown files outside docs/, such as ../../CHANGELOG.md, as files, because they are no pages."""
    source[0] = re.sub(r"\]\((?=(\.\./)+[A-Z]+\.md)", "](path:", source[0])
