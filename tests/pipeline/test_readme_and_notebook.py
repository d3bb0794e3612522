"""What stands in the README and in examples/ runs, here on the tiny run."""

import re

import nbformat
import pytest
from conftest import ROOT, Checkout
from nbclient import NotebookClient

DEFAULT_PAIR = "results/smollm2-135m-refusals"  # of the examples


@pytest.fixture(scope="module")
def results(finished: Checkout) -> str:
    return str(finished.folder / "results/tiny")


def test_notebook_walks_a_finished_run_in_ten_cells(results: str, finished: Checkout) -> None:
    notebook = nbformat.read(ROOT / "examples/explore.ipynb", as_version=4)
    assert len(notebook.cells) == 10
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert f"../{DEFAULT_PAIR}" in first.source
    first.source = first.source.replace(f"../{DEFAULT_PAIR}", results)
    stored = [bool(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert all(stored), "a reader sees the outputs without running it"
    NotebookClient(notebook, timeout=120).execute(cwd=str(finished.folder))
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def test_five_lines_of_the_readme(results: str) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    assert DEFAULT_PAIR in code
    code = code.replace(f"{DEFAULT_PAIR}/layer21", f"{results}/layer1").replace(DEFAULT_PAIR, results)
    *before, last = code.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(before), names)
    top = eval(last, names)
    assert {"token", "latent", "activation", "nu_error", "name"} <= set(top)
    assert len(top)
