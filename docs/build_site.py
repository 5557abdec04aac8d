"""Builds the site into site/: `make site`, which also installs and exports what this needs.

The README is its front, every notebook a page with its outputs as committed, and the Try page runs
the shipped weights in the browser. Nothing on it comes from another server.
"""

import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from PIL import Image
from skimage.transform import resize

import pconv

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
SOURCE = BUILD / "site-source"  # what Sphinx reads
FILES = BUILD / "site-files"  # what it copies as it is
HTML = BUILD / "site-html"  # what it writes
SITE = ROOT / "site"
PAGES = ("CONTRIBUTING.md", "data/README.md", "notebooks/TEACHING.md")
# In Markdown, what follows "](" and ends before ")" or "#".
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)[^)#\s]+")
SIDE = 384  # pixels of the longer side of a photo to try
# How a control is printed. A VBox is the painter under a choice of photos.
CONTROL = re.compile(r"(interactive|BitFlipper|MaskPainter|VBox)\(")
PROGRESS = re.compile(r"^\s*\d+%\|")
# A photo, what is painted over to begin with, as ellipses (row, column, height, width) in fractions
# of the photo, and what it shows.
PHOTOS = (
    ("rocket", [(0.5, 0.5, 0.95, 0.09)], "A rocket in front of an evening sky"),
    ("chelsea", [(0.25, 0.55, 0.3, 0.2)], "A cat"),
    ("grass", [(0.5, 0.5, 0.3, 0.4)], "Grass and leaves"),
)
ONNX_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def main() -> None:
    for folder in (SOURCE, FILES, HTML, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    write_pages()
    copy_mathjax()
    write_try_page()
    command = ["sphinx", "-b", "html", "-c", DOCS, "-W", "--keep-going", "-q", SOURCE, HTML]
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)
    left_out = shutil.ignore_patterns(".doctrees", ".buildinfo", "_sources", "*-macros.html")
    shutil.copytree(HTML, SITE, ignore=left_out)
    pages = len(list(SITE.rglob("*.html")))
    size = sum(file.stat().st_size for file in SITE.rglob("*") if file.is_file())
    print(f"site/: {pages} pages, {size / 2**20:.0f} MiB. To look at it:")
    print("  .venv/bin/python -m http.server --directory site")


# Pages --------------------------------------------------------------------------------------------


def write_pages() -> None:
    """The README, the other pages and the notebooks, at the places they have in the repository."""
    lessons = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
    write_page("README.md", "index.md", contents_of_site(lessons))
    for page in PAGES:
        write_page(page, page)
    for lesson in lessons:
        write_notebook(f"notebooks/{lesson}.ipynb", show_in_a_page)
        write_notebook(f"notebooks/solutions/{lesson}.ipynb", fold_solutions)
    folded = "# Solutions\n\nFolded. Try each exercise first: its check says what is wrong.\n\n"
    write(SOURCE / "notebooks/solutions/index.md", folded + contents("", *lessons, hidden=False))


def contents_of_site(lessons: list[str]) -> str:
    return "\n".join(
        [
            "",
            contents("", "try/index"),
            contents("Lessons", *(f"notebooks/{lesson}" for lesson in lessons)),
            contents("More", "notebooks/solutions/index", *(page[:-3] for page in reversed(PAGES))),
        ]
    )


def contents(caption: str, *pages: str, hidden: bool = True) -> str:
    options = [f":caption: {caption}"] * bool(caption) + [":hidden:"] * hidden
    return "\n".join(["```{toctree}", *options, "", *pages, "```", ""])


def write_page(name: str, target: str, more: str = "") -> None:
    """A Markdown file of the repository as the page `target`, with `more` at its end."""
    write(SOURCE / target, with_links((ROOT / name).read_text(), name) + more)


def write_notebook(name: str, change: Callable[[list], Iterator[NotebookNode]]) -> None:
    """A notebook as a page; `change` gets its cells and returns those of the page."""
    notebook = nbformat.read(ROOT / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_links(cell.source, name)
    notebook.cells = list(change(notebook.cells))
    write(SOURCE / name, nbformat.writes(notebook))


def with_links(text: str, name: str) -> str:
    """Markdown of the file `name` whose links lead to pages of the site.

    A file that is no page is copied, so that it can be downloaded. What leads nowhere stays, for
    Sphinx to complain of.
    """

    def change(link: re.Match) -> str:
        target = link[0]
        file = (ROOT / name).parent.joinpath(target).resolve()
        if file == ROOT / "README.md":
            return target.replace("README.md", "index.md")
        if file == DOCS / "try.md":
            return target.replace("docs/try.md", "try/index.md")
        if file == ROOT / "notebooks" / "solutions":
            return f"{target}/index.md"
        place = file.relative_to(ROOT) if file.is_file() else None
        if place and str(place) not in PAGES and place.suffix != ".ipynb":
            (SOURCE / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, SOURCE / place)
        return target

    return LINK.sub(change, text)


def show_in_a_page(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells, with a note in place of each control: without a kernel none works."""
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs for shown in show_output(output)]
        yield cell


def show_output(output: NotebookNode) -> list[NotebookNode]:
    text = output.get("data", {}).get("text/plain", "")
    if PROGRESS.match(text):  # a bar that stands still
        return []
    if not CONTROL.match(text):
        return [output]
    note = "A control stands here in JupyterLab (<code>make lab</code>)."
    if text.startswith(("MaskPainter", "VBox")):
        note += ' Painting works <a href="../try/index.html">in the browser</a>, too.'
    html = f'<p class="control-note">{note}</p>'
    return [new_output("display_data", {"text/html": html})]


def fold_solutions(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells, with what stands below each heading of an exercise folded."""
    is_open = False
    for cell in show_in_a_page(cells):
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            heading, _, rest = cell.source.partition("\n")
            if is_open:
                yield new_markdown_cell("</details>")
            fold = '<details class="solution"><summary>Show the solution</summary>'
            yield new_markdown_cell(heading)
            yield new_markdown_cell(f"{fold}\n\n{rest.strip()}")
            is_open = True
        else:
            yield cell
    if is_open:
        yield new_markdown_cell("</details>")


# What the pages fetch -----------------------------------------------------------------------------


def copy_mathjax() -> None:
    mathjax = DOCS / "node_modules" / "mathjax" / "es5"
    for part in ("tex-svg.js", "input/tex/extensions"):
        copy(mathjax / part, FILES / "mathjax" / part)


def write_try_page() -> None:
    """The Try page: the network and the masks as ONNX, what runs them, the painter, the photos."""
    write_page("docs/try.md", "try/index.md")
    folder = FILES / "try"
    for file in sorted((DOCS / "try").iterdir()):
        copy(file, folder / file.name)
    for name in ("painter.js", "painter.css"):  # the one of the notebooks
        copy(ROOT / "pconv" / "painter" / name, folder / name)
    for name in ONNX_RUNTIME:
        copy(DOCS / "node_modules" / "onnxruntime-web" / "dist" / name, folder / name)
    for name in ("fill.onnx", "masks.onnx"):  # as `pconv export` made them
        packed = gzip.compress((BUILD / name).read_bytes(), mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
    photos = [write_photo(*photo, folder) for photo in PHOTOS]
    fetched = (ONNX_RUNTIME[-1], "masks.onnx.gz", "fill.onnx.gz")
    sizes = {name: (folder / name).stat().st_size for name in fetched}  # in bytes
    write(folder / "contents.json", json.dumps({"photos": photos, "sizes": sizes}))


def write_photo(name: str, ellipses: list[tuple], alt: str, folder: Path) -> dict:
    """Writes a bundled photo as PNG, SIDE pixels on its longer side; returns what the page asks."""
    photos = pconv.bundled_photos() | pconv.bundled_photos(held_out=True)
    photo = photos[name]
    scale = min(1, SIDE / max(photo.shape[:2]))
    shape = [round(side * scale) for side in photo.shape[:2]]
    small = np.rint(resize(photo / 255, shape, anti_aliasing=True) * 255).astype(np.uint8)
    Image.fromarray(small).save(folder / f"{name}.png", optimize=True)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    holes = np.zeros(shape, bool)
    for row, column, height, width in ellipses:
        down = ((rows + 0.5) / shape[0] - row) / height
        right = ((columns + 0.5) / shape[1] - column) / width
        holes |= down**2 + right**2 < 0.25
    bits = base64.b64encode(np.packbits(holes)).decode()
    return {"file": f"{name}.png", "name": name, "alt": alt, "holes": bits}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    main()
