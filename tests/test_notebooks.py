"""notebooks/: each runs from start to end, and what is committed shows all that it prints and plots.

`.venv/bin/python -m tests.test_notebooks` executes them and saves them in place, after a change of the code or the
released model.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from serving.config import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
TIMEOUT = 540  # seconds a cell
MAX_BYTES = 400_000
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'`(\[=<])(?:/[\w.-]+/|[A-Z]:\\|~/)""", re.MULTILINE)


def read(name: str) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(FOLDER / name, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Runs all cells in a fresh kernel that works in `folder`, and fills in their outputs."""
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows(source: str) -> bool:
    """Whether the cell prints, plots or ends in a value."""
    *_, last = body = ast.parse(source).body
    run = [node for part in body if not isinstance(part, ast.FunctionDef) for node in ast.walk(part)]
    called = {ast.unparse(node.func) for node in run if isinstance(node, ast.Call)}
    return isinstance(last, ast.Expr) or bool(called & {"print", "plt.show"})


def texts(cell: NotebookNode) -> str:
    """All that the cell's outputs say, its pictures left out."""
    data = [output.get("data", {}) for output in cell.outputs]
    said = [each[kind] for each in data for kind in each if not kind.startswith("image/")]
    return "\n".join(said + [output.get("text", "") for output in cell.outputs])


def kinds(notebook: NotebookNode) -> list[set[str]]:
    """Of each code cell, the kinds of its outputs."""
    return [
        {kind for output in cell.outputs for kind in (output.output_type, *output.get("data", {}))}
        for cell in code_cells(notebook)
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_from_start_to_end_and_shows_what_the_committed_one_does(name: str) -> None:
    committed = kinds(read(name))
    executed = kinds(execute(read(name), FOLDER))
    assert [each - {"stream"} for each in executed] == [each - {"stream"} for each in committed]


@pytest.mark.parametrize("name", ["digit_recognition.ipynb", "test_scripted_model.ipynb"])
def test_a_notebook_starts_in_the_projects_folder_too(name: str) -> None:
    """The third has the first one's first cell."""
    notebook = read(name)
    notebook.cells = code_cells(notebook)[:2]
    execute(notebook, ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_shows_everything_in_order_and_nothing_that_changes_by_itself(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell.source for cell in cells if shows(cell.source) and not cell.outputs] == []
    assert any("image/png" in each for each in kinds(notebook))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert [found for cell in cells for found in ABSOLUTE_PATH.findall(texts(cell))] == []
    assert notebook.metadata == METADATA
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert (FOLDER / name).stat().st_size <= MAX_BYTES


def refresh(name: str) -> None:
    """Executes the notebook and saves it with its outputs, without what would differ from run to run."""
    notebook = execute(read(name), FOLDER)
    notebook["metadata"] = METADATA
    for cell in notebook.cells:
        cell["metadata"] = {}
    nbformat.write(notebook, FOLDER / name)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    for each in NAMES:
        refresh(each)
        print(FOLDER / each)
