"""A real JupyterLab in a real browser. Without chromium it is skipped, or fails if CI is set."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client import BlockingKernelClient
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[2]
TOKEN = "browser-tests"
PATIENCE = 600  # seconds until something is taken to hang
SCRATCH = [
    "import pconv\nfrom pconv.painter import MaskPainter\nmodel = pconv.load_pretrained()\n"
    "photo = pconv.bundled_photos(held_out=True)['coffee'][:320, :400]",
    "painter = MaskPainter(photo, on_change=lambda *given: pconv.inpaint(model, *given))\npainter",
    "other = MaskPainter(photo[:200], brush=9)\nother",
]


@pytest.fixture(scope="session")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        message = "no chromium on this machine: install it to run the browser tests"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab and a Notebook 7 that serve a copy of the notebooks, with their own settings."""
    folder = tmp_path_factory.mktemp("lab")
    ignored = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=ignored)
    shutil.copytree(ROOT / "data" / "results", folder / "data" / "results")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    command += [
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        lab = Lab(f"http://127.0.0.1:{port}", folder)
        lab.write("scratch.ipynb", *SCRATCH)
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            try:
                lab.get("status")
                break
            except OSError:
                time.sleep(0.25)
        yield lab
    finally:
        server.terminate()
        server.wait(PATIENCE)


class Lab:
    def __init__(self, address: str, folder: Path):
        self.address, self.runtime, self.notebooks = (
            address,
            folder / "runtime",
            folder / "notebooks",
        )

    def write(self, name: str, *sources: str) -> str:
        """A notebook of these cells."""
        kernel = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        }
        cells = [new_code_cell(source.strip()) for source in sources]
        nbformat.write(new_notebook(cells=cells, metadata=kernel), self.notebooks / name)
        return name

    def get(self, path: str):
        with urllib.request.urlopen(
            f"{self.address}/api/{path}?token={TOKEN}", timeout=PATIENCE
        ) as answer:
            return json.load(answer)


class Notebook:
    """A notebook open in the browser, and a second client of its kernel to evaluate code there."""

    def __init__(self, lab: Lab, browser, name: str, url: str):
        self.lab, self.name, self.errors = lab, name, []
        self.page = browser.new_page(
            viewport={"width": 1300, "height": 1000}, accept_downloads=True
        )
        self.page.on(
            "console", lambda message: message.type == "error" and self.errors.append(message.text)
        )
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{lab.address}/{url}/{name}?token={TOKEN}")
        ready = """path => {
            const panel = window.jupyterapp?.shell.currentWidget;
            const context = panel?.context;
            return context?.path === path && context.isReady && panel.sessionContext.isReady;
        }"""
        self.page.wait_for_function(ready, arg=name, timeout=1000 * PATIENCE)
        if url == "notebooks":  # Notebook 7 complains of itself while it starts
            self.errors.clear()

    def run(self) -> None:
        """Runs all cells to the end; every cell must have run, and none must show an error."""
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        cells = self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets
                .map(cell => cell.model)
                .filter(cell => cell.type === 'code')
                .map(cell => {
                    const kinds = cell.outputs.toJSON().map(output => output.output_type);
                    return [cell.executionCount, kinds];
                })"""
        )
        assert cells and all(count for count, _ in cells), cells
        assert not [kinds for _, kinds in cells if "error" in kinds]

    def restart(self) -> None:
        self.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        # JupyterLab writes to its console that requests to the old kernel were canceled
        self.errors = [error for error in self.errors if "Canceled future" not in error]

    def show(self, text: str):
        """Scrolls to the code cell whose source begins with this text; returns where it is."""
        self.page.evaluate(
            """text => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const at = notebook.widgets.findIndex(
                    cell => cell.model.sharedModel.source.trim().startsWith(text)
                );
                notebook.activeCellIndex = at;
                return notebook.scrollToItem(at, 'start');
            }""",
            text,
        )
        cell = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell.jp-mod-active")
        cell.wait_for()
        return cell

    def ask(self, expression: str):
        """The value of an expression in the kernel, after what is already queued there."""
        session = next(s for s in self.lab.get("sessions") if s["path"].endswith(self.name))
        client = BlockingKernelClient()
        client.load_connection_file(
            str(self.lab.runtime / f"kernel-{session['kernel']['id']}.json")
        )
        client.start_channels()
        try:
            code = {"x": f"__import__('json').dumps({expression})"}
            reply = client.execute(
                "", silent=True, user_expressions=code, reply=True, timeout=PATIENCE
            )
        finally:
            client.stop_channels()
        value = reply["content"]["user_expressions"]["x"]
        assert value["status"] == "ok", value
        return json.loads(eval(value["data"]["text/plain"]))

    def holes(self, painter: str = "painter") -> np.ndarray:
        height, width = self.ask(f"{painter}.holes.shape")
        packed = bytes.fromhex(
            self.ask(f"__import__('numpy').packbits({painter}.holes).tobytes().hex()")
        )
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
        return bits.reshape(height, width) > 0

    def wait(self, condition, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s"
            self.page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def notebook(lab, browser):
    """Opens notebooks, each once. In the end, no page may have written an error to its console."""
    opened = {}

    def open_notebook(name: str, url: str | None = None) -> Notebook:
        # a workspace of its own, or each page opens the others' notebooks too
        url = url or f"lab/workspaces/{Path(name).stem}/tree"
        if (name, url) not in opened:
            opened[name, url] = Notebook(lab, browser, name, url)
        opened[name, url].page.bring_to_front()
        return opened[name, url]

    yield open_notebook
    errors = {key: one.errors for key, one in opened.items() if one.errors}
    for one in opened.values():
        one.page.close()
    assert not errors
