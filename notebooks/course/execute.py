"""Executes notebooks and writes them in the one form in which they are committed.

    python notebooks/course/execute.py [NOTEBOOK ...]        (default: all of them)

Each runs top to bottom on a clean kernel of this Python, in its own folder. Nothing is written
for a notebook that fails, warns, or prints to stderr. Executing twice gives the same bytes, but
for cells whose output varies.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from ipykernel import kernelspec
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from pconv.files import atomic_write

FOLDER = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
WIDGET = "application/vnd.jupyter.widget-view+json"


class _ThisPython(KernelSpecManager):
    """Whatever kernels are registered, `python3` is the interpreter this script runs on."""

    def get_kernel_spec(self, kernel_name):
        return self.kernel_spec_class(
            resource_dir=kernelspec.RESOURCES, **kernelspec.get_kernel_dict()
        )


class _Client(NotebookClient):
    """Keeps what `interact` prints, and sends nothing of it back to the kernel.

    nbclient would send each output of an Output widget to the kernel, on the socket on which it
    awaits the end of the cell. About every second time it then misses that end, until the timeout.
    """

    def on_comm_open_jupyter_widget(self, msg):
        widget = super().on_comm_open_jupyter_widget(msg)
        if widget is not None:
            widget.send = lambda *arguments, **keywords: None
        return widget


def notebooks(folder: Path = FOLDER) -> list[Path]:
    """The notebooks of the course and then their solutions, in order."""
    return sorted(folder.glob("*.ipynb")) + sorted((folder / "solutions").glob("*.ipynb"))


def execute(path: Path, timeout: int = 600) -> None:
    """Executes one notebook and writes it back.

    Raises RuntimeError, and writes nothing, where it does not run clean.
    """
    notebook = canonical(nbformat.read(path, as_version=4))
    where = {"metadata": {"path": str(path.parent)}}
    client = _Client(notebook, timeout=timeout, kernel_name="python3", resources=where)
    client.create_kernel_manager().kernel_spec_manager = _ThisPython()
    try:
        client.execute()
    except CellExecutionError as error:
        raise RuntimeError(f"{path}: a cell raises\n{error}") from None
    wrong = [*_complaints(notebook), *_complaints_in_widgets(client.widget_state)]
    if wrong:
        raise RuntimeError(f"{path}: " + "\n".join(wrong))
    with atomic_write(path) as temporary:
        temporary.write_text(dumps(canonical(notebook)), encoding="utf-8", newline="\n")


def dumps(notebook: NotebookNode) -> str:
    """The notebook as text, as it is committed."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def canonical(notebook: NotebookNode) -> NotebookNode:
    """A copy without what differs between runs, machines and editors."""
    notebook = nbformat.from_dict(notebook)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key == "tags"}
        )
        if cell.cell_type == "code":
            cell.outputs = _merged([_plain(output) for output in cell.outputs])
    return notebook


def _plain(output: NotebookNode) -> NotebookNode:
    """A widget's output is left as text; sizes of pictures are the only metadata that stays."""
    if "data" in output:
        output.data.pop(WIDGET, None)
        output.metadata = nbformat.from_dict(
            {k: v for k, v in output.metadata.items() if k.startswith("image/")}
        )
        for kind in ("image/png", "image/jpeg"):
            if isinstance(output.data.get(kind), str):
                output.data[kind] = output.data[kind].rstrip("\n")
    return output


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: how it is cut depends on timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _complaints(notebook: NotebookNode) -> list[str]:
    return [
        f"cell {index} prints to stderr: {output.text.strip()}"
        for index, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]


def _complaints_in_widgets(states: dict) -> list[str]:
    """What failed or warned inside `interact`, where it would stop nothing."""
    outputs = [output for state in states.values() for output in state.get("outputs", ())]
    errors = [
        f"a widget raises {o['ename']}: {o['evalue']}"
        for o in outputs
        if o["output_type"] == "error"
    ]
    return errors + [
        f"a widget prints to stderr: {o['text'].strip()}"
        for o in outputs
        if o.get("name") == "stderr"
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Execute notebooks into the form in which they are committed."
    )
    parser.add_argument(
        "notebook", nargs="*", type=Path, help="default: all notebooks and solutions"
    )
    failed = 0
    for path in parser.parse_args(arguments).notebook or notebooks():
        start = time.perf_counter()
        try:
            execute(path.resolve())
        except (RuntimeError, OSError, ValueError) as error:
            print(re.sub(r"\x1b\[[\d;]*m", "", str(error)), file=sys.stderr)
            failed += 1
        else:
            print(f"{path.name:<40}{time.perf_counter() - start:6.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
