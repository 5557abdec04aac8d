"""The painter and the sliders, used with a mouse and a keyboard in JupyterLab."""

import base64
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pconv

ROOT = Path(__file__).parents[2]
COFFEE = pconv.bundled_photos(held_out=True)["coffee"][:320, :400]


def drag(notebook, canvas, start, end, shape):
    """Draws a straight line with the mouse, from one (row, column) of the picture to another."""
    canvas.scroll_into_view_if_needed()
    box = None
    while box != (box := canvas.bounding_box()):  # until the page has settled
        notebook.page.wait_for_timeout(300)
    scale = box["width"] / shape[1]
    places = [(box["x"] + column * scale, box["y"] + row * scale) for row, column in (start, end)]
    mouse = notebook.page.mouse
    mouse.move(*places[0])
    mouse.down()
    mouse.move(*places[1], steps=9)
    mouse.up()


def under_the_brush(start, end, brush, shape):
    """The pixels whose center is no further than half a brush from the line."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    (r, c), (dr, dc) = start, np.subtract(end, start)
    along = np.clip(((rows - r) * dr + (columns - c) * dc) / max(dr * dr + dc * dc, 1e-9), 0, 1)
    return np.hypot(rows - r - along * dr, columns - c - along * dc) <= brush / 2


def assert_painted(holes, expected):
    """As many pixels within 2 %, and in the same place within a pixel."""
    assert abs(int(holes.sum()) - int(expected.sum())) <= 0.02 * expected.sum()
    for axis in (0, 1):
        ours, theirs = (np.flatnonzero(mask.any(axis)) for mask in (holes, expected))
        assert abs(ours[0] - theirs[0]) <= 1 and abs(ours[-1] - theirs[-1]) <= 1


def shown_result(cell) -> np.ndarray:
    """The result as it is seen: what lies over the photo, drawn over it."""
    url = cell.locator(".pconv-side .pconv-stage").evaluate(
        """async stage => {
            const images = [...stage.querySelectorAll("img")];
            await Promise.all(images.map(image => image.decode()));
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [images[0].naturalWidth, images[0].naturalHeight];
            for (const image of images) canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png");
        }"""
    )
    return opened(url)


def opened(data_url: str) -> np.ndarray:
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("RGB")
    )


@pytest.fixture
def scratch(notebook):
    page = notebook("scratch.ipynb")
    page.run()
    return page


def test_a_stroke_paints_the_pixels_under_it_and_undo_takes_them_back(scratch):
    cell = scratch.show("painter =")
    canvas, before = cell.locator("canvas"), scratch.holes()
    assert before.any()  # it begins with a hole
    cell.get_by_role("button", name="Clear").click()
    scratch.wait(lambda: not scratch.holes().any())
    start, end, brush = (60, 80), (200, 330), scratch.ask("painter.brush")
    drag(scratch, canvas, start, end, before.shape)
    scratch.wait(lambda: scratch.holes().any())
    painted = scratch.holes()
    assert_painted(painted, under_the_brush(start, end, brush, before.shape))
    undo, redo = (cell.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    undo.click()
    scratch.wait(lambda: not scratch.holes().any())
    undo.click()
    scratch.wait(lambda: np.array_equal(scratch.holes(), before))
    assert undo.is_disabled()
    redo.click()
    redo.click()
    scratch.wait(lambda: np.array_equal(scratch.holes(), painted))
    assert redo.is_disabled()


def test_the_eraser_the_keys_and_the_size(scratch):
    cell = scratch.show("painter =")
    canvas, page, before = cell.locator("canvas"), scratch.page, scratch.holes()
    cell.get_by_role("button", name="Eraser").click()
    drag(scratch, canvas, (160, 150), (160, 250), before.shape)
    expected = before & ~under_the_brush((160, 150), (160, 250), 24, before.shape)
    scratch.wait(lambda: scratch.holes().sum() < before.sum())
    assert_painted(scratch.holes(), expected)
    canvas.focus()
    page.keyboard.press("]")
    scratch.wait(lambda: scratch.ask("painter.brush") == 29)
    page.keyboard.press("[")
    scratch.wait(lambda: scratch.ask("painter.brush") == 24)
    page.keyboard.press("b")
    count = scratch.holes().sum()
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    scratch.wait(lambda: scratch.holes().sum() > count + 350)
    page.keyboard.press("Control+z")
    scratch.wait(lambda: scratch.holes().sum() == count)
    slider = cell.get_by_role("slider", name="Size")
    slider.focus()
    page.keyboard.press("ArrowRight")
    scratch.wait(lambda: scratch.ask("painter.brush") == 25)


def test_the_result_changes_in_the_holes_only(scratch, tmp_path):
    cell = scratch.show("painter =")
    first = shown_result(cell)
    drag(scratch, cell.locator("canvas"), (40, 60), (80, 200), COFFEE.shape)
    scratch.wait(lambda: not np.array_equal(shown_result(cell), first))
    holes, result = scratch.holes(), shown_result(cell)
    assert np.array_equal(result[~holes], COFFEE[~holes])
    changed = (result != COFFEE).any(2)
    assert changed[holes].mean() > 0.9
    assert cell.locator(".pconv-status").inner_text().endswith(" s")
    with scratch.page.expect_download() as download:
        cell.get_by_role("button", name="Download").click()
    saved = Path(tmp_path / "result.png")
    download.value.save_as(saved)
    assert np.array_equal(np.asarray(Image.open(saved).convert("RGB")), result)
    reveal = cell.get_by_role("slider", name="Before and after")
    reveal.focus()
    scratch.page.keyboard.press("Home")
    clip = cell.locator(".pconv-result").evaluate("image => getComputedStyle(image).clipPath")
    assert clip == "inset(0px 100% 0px 0px)"


def test_two_painters_are_independent(scratch):
    shape, before = (200, 400), scratch.holes()
    other = scratch.holes("other")
    cell = scratch.show("other =")
    drag(scratch, cell.locator("canvas"), (20, 30), (60, 300), shape)
    scratch.wait(lambda: scratch.holes("other").sum() > other.sum())
    added = scratch.holes("other") & ~other
    assert_painted(added, under_the_brush((20, 30), (60, 300), 9, shape))
    assert np.array_equal(scratch.holes(), before)


def test_notebook_01_runs_and_its_layer_slider_changes_the_mask(notebook):
    page = notebook("01_partial_convolution.ipynb")
    page.run()
    cell = page.show("from ipywidgets import")
    picture = cell.locator(".jp-OutputArea-output img").last
    picture.wait_for()
    before = opened(picture.get_attribute("src"))
    cell.locator(".noUi-handle").focus()
    page.page.keyboard.press("Home")
    page.wait(lambda: not np.array_equal(opened(picture.get_attribute("src")), before))
    painted = page.show("from pconv.painter import")
    shape, holes = (300, 451), page.holes()
    drag(page, painted.locator("canvas"), (50, 50), (50, 400), shape)
    page.wait(lambda: page.holes().sum() > holes.sum())
    assert_painted(page.holes() & ~holes, under_the_brush((50, 50), (50, 400), 20, shape) & ~holes)


@pytest.mark.parametrize(
    "name, control",
    [
        ("02_unet_and_masks", "from ipywidgets import"),
        ("03_padding", "from ipywidgets import"),
        ("05_perceptual_and_gram_loss", "from course.loss_pictures import bars"),
    ],
)
def test_notebooks_run_and_their_controls_change_the_picture(notebook, name, control):
    page = notebook(f"{name}.ipynb")
    page.run()
    cell = page.show(control)
    picture = cell.locator(".jp-OutputArea-output img").last
    picture.wait_for()
    before = opened(picture.get_attribute("src"))
    if cell.locator("select").count():
        cell.locator("select").first.select_option(index=0)
    else:
        cell.locator(".noUi-handle").first.focus()
        page.page.keyboard.press("End")
    page.wait(lambda: not np.array_equal(opened(picture.get_attribute("src")), before))


def test_notebook_02_colors_a_stroke_by_the_layer_that_fills_it(notebook):
    page = notebook("02_unet_and_masks.ipynb")
    page.run()
    cell = page.show("from pconv.painter")
    holes, before = page.holes(), shown_result(cell)
    drag(page, cell.locator("canvas"), (430, 60), (430, 450), holes.shape)
    page.wait(lambda: page.holes().sum() > holes.sum())
    page.wait(lambda: not np.array_equal(shown_result(cell), before))
    stroke = page.holes() & ~holes
    gray = np.ptp(shown_result(cell).astype(int), axis=2) == 0  # the photo is, a hole is not
    assert not gray[stroke].any() and gray[~page.holes()].all()


def test_notebook_11_runs_and_inpaints_a_stroke(notebook):
    page = notebook("11_inpaint_your_photo.ipynb")
    page.run()
    before = page.holes()
    cell = page.show("from io import BytesIO")
    drag(page, cell.locator("canvas"), (20, 20), (30, before.shape[1] - 20), before.shape)
    page.wait(lambda: page.holes().sum() > before.sum())
    assert page.ask(
        "painter.result[~painter.holes].tolist() == painter.photo[~painter.holes].tolist()"
    )


def test_it_runs_again_after_the_kernel_was_restarted(scratch):
    before = scratch.holes()
    scratch.restart()
    scratch.run()
    cell = scratch.show("painter =")
    drag(scratch, cell.locator("canvas"), (40, 60), (80, 200), COFFEE.shape)
    scratch.wait(lambda: scratch.holes().sum() > before.sum())
    assert np.array_equal(scratch.holes() & before, before)


def test_it_works_in_notebook_7(notebook, lab):
    # with a kernel of its own
    shutil.copy(lab.notebooks / "scratch.ipynb", lab.notebooks / "seven.ipynb")
    page = notebook("seven.ipynb", url="notebooks")
    page.run()
    before, cell = page.holes(), page.page.locator(".pconv-painter").first
    drag(page, cell.locator("canvas"), (40, 60), (80, 200), COFFEE.shape)
    page.wait(lambda: page.holes().sum() > before.sum())


def test_make_lab_listens_on_localhost_only_and_asks_for_a_token():
    lines = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    recipe = next(line for line in lines.splitlines() if "-m jupyterlab" in line).split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        *recipe[1:],
        "--no-browser",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            status = None
            while status is None:
                assert server.poll() is None
                status = _status(f"http://127.0.0.1:{port}/api/contents")
            assert status == 403
            elsewhere = socket.gethostbyname(socket.gethostname())
            if not elsewhere.startswith("127."):
                with pytest.raises(OSError):
                    socket.create_connection((elsewhere, port), timeout=2).close()
        finally:
            server.terminate()


def _status(url: str) -> int | None:
    """The HTTP status, or None where nobody listens yet."""
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        time.sleep(0.25)
        return None
