"""Pages for contributors name only files that exist."""

import re

import pytest

from serving.config import ROOT

PAGES = ("CONTRIBUTING.md", "SECURITY.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("https://")}
    paths = links | set(re.findall(r"[\w.-]+/[\w./-]*\.\w+", re.sub(r"https?://\S+", "", text)))
    assert len(paths) >= 2
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_package_is_in_the_map() -> None:
    """Every folder with Python files has a row."""
    packages = {path.parent.name for path in ROOT.glob("*/*.py")} - {"docs", "tests"}
    rows = re.findall(r"^\| \[(\w+)/\]", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert set(rows) == packages
