"""notebooks/: all run from start to end, and their committed outputs are complete.

`.venv/bin/python -m tests.test_notebooks` executes them and saves their outputs; run it after changes of the code or
the shipped model.
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


def read_notebook(name: str) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(FOLDER / name, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute_notebook(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a new kernel with working directory `folder`; fill in their outputs."""
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def get_code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def has_output(source: str) -> bool:
    """Return whether the cell prints, plots or ends in a value."""
    *_, last = body = ast.parse(source).body
    run = [node for part in body if not isinstance(part, ast.FunctionDef) for node in ast.walk(part)]
    called = {ast.unparse(node.func) for node in run if isinstance(node, ast.Call)}
    return isinstance(last, ast.Expr) or bool(called & {"print", "plt.show"})


def get_text(cell: NotebookNode) -> str:
    """Return the text of the cell's outputs, without images."""
    data = [output.get("data", {}) for output in cell.outputs]
    texts = [part[kind] for part in data for kind in part if not kind.startswith("image/")]
    return "\n".join(texts + [output.get("text", "") for output in cell.outputs])


def list_output_kinds(notebook: NotebookNode) -> list[set[str]]:
    """Return the kinds of outputs by code cell."""
    return [
        {kind for output in cell.outputs for kind in (output.output_type, *output.get("data", {}))}
        for cell in get_code_cells(notebook)
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_and_has_the_committed_kinds_of_output(name: str) -> None:
    committed = list_output_kinds(read_notebook(name))
    executed = list_output_kinds(execute_notebook(read_notebook(name), FOLDER))
    assert [kinds - {"stream"} for kinds in executed] == [kinds - {"stream"} for kinds in committed]


@pytest.mark.parametrize("name", ["digit_recognition.ipynb", "test_scripted_model.ipynb"])
def test_notebook_also_starts_in_the_repository_root(name: str) -> None:
    """The third notebook has the same first cell as the first."""
    notebook = read_notebook(name)
    notebook.cells = get_code_cells(notebook)[:2]
    execute_notebook(notebook, ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_is_complete_and_reproducible(name: str) -> None:
    notebook = read_notebook(name)
    nbformat.validate(notebook)
    cells = get_code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell.source for cell in cells if has_output(cell.source) and not cell.outputs] == []
    assert any("image/png" in kinds for kinds in list_output_kinds(notebook))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert [found for cell in cells for found in ABSOLUTE_PATH.findall(get_text(cell))] == []
    assert notebook.metadata == METADATA
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert (FOLDER / name).stat().st_size <= MAX_BYTES


def refresh_notebook(name: str) -> None:
    """Execute the notebook and save it with its outputs, without metadata that differs between runs."""
    notebook = execute_notebook(read_notebook(name), FOLDER)
    notebook["metadata"] = METADATA
    for cell in notebook.cells:
        cell["metadata"] = {}
    nbformat.write(notebook, FOLDER / name)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    for name in NAMES:
        refresh_notebook(name)
        print(FOLDER / name)
