"""The script that executes notebooks: the same bytes twice; a failing notebook is kept."""

import nbformat
import pytest
from course import execute
from nbformat.v4 import new_code_cell, new_notebook

import pconv


def notebook_file(tmp_path, *sources):
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def test_execute_twice_gives_the_same_bytes(tmp_path):
    path = notebook_file(
        tmp_path,
        "import os, matplotlib.pyplot as plt\n"
        "from ipywidgets import interact\nprint(len(os.listdir()))",
        "for i in range(3): print(i, flush=True)",
        "plt.plot([1, 2])\nplt.show()",
        "interact(lambda n: print(n), n=(0, 4));",
    )
    assert execute.main([str(path)]) == 0
    once = path.read_bytes()  # cell ids included
    assert execute.main([str(path)]) == 0 and path.read_bytes() == once and once.endswith(b"}\n")
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4]
    first, loop, figure, control = (cell.outputs for cell in notebook.cells)
    assert first[0].text == "1\n" and loop[0].text == "0\n1\n2\n", (
        "in the notebook's folder; one stream, one output"
    )
    assert "image/png" in figure[0].data
    assert [set(output.data) for output in control] == [{"text/plain"}]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert not any(c.metadata for c in notebook.cells)


@pytest.mark.parametrize(
    "source, words",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import warnings\nwarnings.warn('careful')", "prints to stderr"),
        (
            "from ipywidgets import interact\ninteract(lambda n: 1 / n, n=(0, 0));",
            "a widget raises ZeroDivisionError",
        ),
    ],
)
def test_a_notebook_that_does_not_run_clean_is_left_alone(tmp_path, capsys, source, words):
    path = notebook_file(tmp_path, source)
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert words in capsys.readouterr().err and path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ipynb"]


def test_all_notebooks_are_found():
    names = [path.name for path in execute.notebooks()]
    assert names.count("01_partial_convolution.ipynb") == 2 and pconv.__version__
