"""How the README and the notebooks become pages; browser/test_site_pages looks at the result."""

import base64
import json
import re
from pathlib import Path

import build_site
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

import pconv

ROOT = Path(__file__).parent.parent


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(build_site, "SOURCE", tmp_path)
    return tmp_path


def test_links_lead_to_pages_or_to_a_copy(source):
    text = (
        "[a](docs/try.md) [b](notebooks/01_partial_convolution.ipynb) [c](notebooks/solutions) "
        "[d](LICENSE) ![e](data/paint_and_fill.webp) [f](https://arxiv.org/abs/1804.07723) [g](#x)"
    )
    expected = text.replace("docs/try.md", "try/index.md").replace(
        "(notebooks/solutions)", "(notebooks/solutions/index.md)"
    )
    assert build_site.with_links(text, "README.md") == expected
    copied = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
    assert copied == ["LICENSE", "data/paint_and_fill.webp"]
    back = build_site.with_links("[all](../README.md#the-notebooks)", "notebooks/TEACHING.md")
    assert back == "[all](../index.md#the-notebooks)"
    code = "`y = layers[0](x)` and [gone](no_such_file.md)"  # Sphinx complains of the second
    assert build_site.with_links(code, "README.md") == code


def test_a_control_becomes_a_note_and_all_else_stays():
    def shown(text, **more):
        output = new_output("display_data", {"text/plain": text, **more})
        return build_site.show_output(output)

    figure = {"image/png": "iVBORw0KGgo="}
    assert [output.data for output in shown("<Figure>", **figure)] == [
        {"text/plain": "<Figure>", **figure}
    ]
    for text in ("interactive(children=(IntSlider()))", "BitFlipper(0 01111: 1, normal)"):
        (note,) = shown(text)
        assert "JupyterLab" in note.data["text/html"] and "try" not in note.data["text/html"]
    for text in ("MaskPainter(451×300 pixels, 5.2% painted)", "VBox(children=(HBox(children=()"):
        (note,) = shown(text)
        assert 'href="../try/index.html"' in note.data["text/html"]
    assert shown("  0%|          | 0/300 [00:00<?, ?step/s]") == []
    printed = new_output("stream", name="stdout", text="interactive(children=...")
    assert build_site.show_output(printed) == [printed]


def test_every_solution_is_folded():
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb")):
        before = nbformat.read(path, as_version=4).cells
        cells = list(build_site.fold_solutions(nbformat.read(path, as_version=4).cells))
        exercises = sum(cell.source.startswith("## ") for cell in before)
        depth, folded = 0, 0
        for cell in cells:
            text = cell.source if cell.cell_type == "markdown" else ""
            depth += text.count("<details") - text.count("</details>")
            folded += cell.cell_type == "code" and depth == 1
            assert depth in (0, 1)
            assert not text.startswith("## ") or depth == 0  # a heading stays in sight
        assert depth == 0 and exercises >= 2
        code = [cell for cell in before if cell.cell_type == "code"]
        assert folded == len(code) - 1, path  # all but the setup cell
        assert [cell for cell in cells if cell.cell_type == "code"] == code


def test_the_contents_name_every_page_once():
    lessons = ["01_a", "02_b"]
    pages = re.findall(r"^(?![`:])\S+$", build_site.contents_of_site(lessons), re.MULTILINE)
    assert pages[:3] == ["try/index", "notebooks/01_a", "notebooks/02_b"]
    assert {f"{page}.md" for page in pages} >= set(build_site.PAGES)
    assert len(pages) == len(set(pages))


def test_photos_to_try(tmp_path):
    for name, ellipses, alt in build_site.PHOTOS:
        told = build_site.write_photo(name, ellipses, alt, tmp_path)
        assert json.loads(json.dumps(told))["alt"]
        photo = np.array(Image.open(tmp_path / told["file"]))
        assert photo.dtype == np.uint8 and max(photo.shape[:2]) == build_site.SIDE
        bits = np.frombuffer(base64.b64decode(told["holes"]), np.uint8)
        holes = np.unpackbits(bits, count=photo.shape[0] * photo.shape[1])
        assert 0.01 < holes.mean() < 0.25
        whole = (pconv.bundled_photos() | pconv.bundled_photos(held_out=True))[name]
        assert abs(photo.mean() - whole.mean()) < 2


def test_a_cell_that_prints_keeps_its_outputs():
    cell = new_code_cell("1", outputs=[new_output("stream", name="stdout", text="1\n")])
    (shown,) = build_site.show_in_a_page([cell])
    assert shown.outputs[0].text == "1\n"
