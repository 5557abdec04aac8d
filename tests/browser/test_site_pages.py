"""The site that `make site` has built, in a real browser: its pages, and painting on the Try page.

It is served from this machine, and no page may ask any other.
"""

import base64
import functools
import http.server
import io
import os
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import numpy as np
import pytest
import torch
from PIL import Image

import pconv

SITE = Path(__file__).parents[2] / "site"
TRY = "try/index.html"
HOLE = (150, 18, 60)  # its color in the strip
PIXELS = """node => {
    const canvas = document.createElement('canvas');
    canvas.width = node.naturalWidth || node.width;
    canvas.height = node.naturalHeight || node.height;
    canvas.getContext('2d').drawImage(node, 0, 0);
    return canvas.toDataURL();
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *ignored):
        pass


@pytest.fixture(scope="module")
def address():
    if not (SITE / "index.html").exists():
        message = "no site/: run `make site` first"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    handler = functools.partial(Quiet, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def open_page(browser, address):
    """Opens a page; in the end none may have had an error, or have asked another machine."""
    contexts, faults = [], []

    def open_page(path, script="", **options):
        context = browser.new_context(viewport={"width": 1300, "height": 1000}, **options)
        contexts.append(context)
        context.on(
            "request",
            lambda request: (
                request.url.startswith((address, "blob:", "data:"))
                or faults.append(f"asks {request.url}")
            ),
        )
        context.on(
            "requestfailed",
            lambda request: (
                request.failure == "net::ERR_ABORTED"  # the page was left
                or faults.append(f"{request.failure}: {request.url}")
            ),
        )
        context.on(
            "response",
            lambda answer: answer.status < 400 or faults.append(f"{answer.status} {answer.url}"),
        )
        context.on(
            "console",
            lambda message: message.type in ("error", "warning") and faults.append(message.text),
        )
        context.on("weberror", lambda error: faults.append(str(error.error)))
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def names_of_pages():
    return sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))


# Pages --------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The links of a page, what it fetches, and the names one can link to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]
        self.names |= {attributes[name] for name in ("id", "name") if attributes.get(name)}


def test_all_links_lead_somewhere(address):
    pages = {name: Links((SITE / name).read_text()) for name in names_of_pages()}
    assert len(pages) > 26
    broken, others = [], set()
    for name, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(urljoin(address + name, link))
            if not target.startswith(address):
                others.add(target)
                continue
            path = unquote(urlparse(target).path).lstrip("/") or "index.html"
            names = pages[path].names if path in pages else {unquote(anchor)}
            if not (SITE / path).is_file() or (anchor and unquote(anchor) not in names):
                broken.append((name, link))
    assert broken == []
    assert {urlparse(other).scheme for other in others} <= {"https", "http", "mailto"}


def test_every_notebook_is_a_page_with_its_pictures_and_formulas(open_page, address):
    notebooks = [name for name in names_of_pages() if name[:10] == "notebooks/" and "_" in name]
    assert len(notebooks) == 22
    page = open_page("index.html")
    for name in ["index.html", *names_of_pages()]:
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        broken = page.evaluate("""() => [...document.images]
            .filter(image => image.complete && !image.naturalWidth && !image.hidden)
            .map(image => image.src)""")
        assert broken == [], name
        text = page.inner_text("main")
        assert not any(raw in text for raw in ("\\(", "|---", "|—")), (
            name
        )  # a formula or a table, not drawn
    page.goto(address + notebooks[0])
    page.locator("mjx-container svg").first.wait_for()
    text = page.inner_text("main")
    assert "interactive(children" not in text and "MaskPainter(451×300" not in text
    assert "A control stands here in JupyterLab" in text
    assert page.locator("a[rel=next], a.right-next").first.is_visible()


def test_solutions_are_folded(open_page):
    page = open_page("notebooks/solutions/01_partial_convolution.html")
    folds = page.locator("details.solution")
    assert folds.count() == 3
    code = folds.first.locator(".highlight").first
    assert not code.is_visible()
    folds.first.locator("summary").click()
    assert code.is_visible()
    assert page.locator("details.solution details.solution").count() == 0


def test_search_finds_a_lesson(open_page):
    page = open_page("search.html?q=epsilon")
    results = page.locator("#search-results li")
    results.first.wait_for()
    assert results.count() > 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_pages_do_not_scroll_sideways(open_page, address, scheme):
    page = open_page("index.html", color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    for name in names_of_pages() if scheme == "light" else ("index.html", TRY):
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        if name == TRY:
            Painting(page)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
        dark = page.evaluate("document.documentElement.dataset.theme")
        assert dark == scheme


# The Try page -------------------------------------------------------------------------------------


def pixels(locator):
    """What an <img> or a <canvas> shows, uint8 (H, W, 4)."""
    data = locator.evaluate(PIXELS).partition(",")[2]
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


class Painting:
    """The Try page, as one sees it."""

    def __init__(self, page):
        self.page = page
        self.canvas = page.locator(".pconv-paper canvas")
        self.wait_for_fill()

    def wait_for_fill(self):
        self.page.wait_for_function(
            "() => / s$|painted/.test(document.querySelector('.pconv-status')?.textContent ?? '')"
        )

    def drag(self, start, end):
        """Draws a line from one (x, y) to another, in pixels of the photo."""
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        scale = box["width"] / self.photo.shape[1]
        mouse = self.page.mouse
        mouse.move(box["x"] + start[0] * scale, box["y"] + start[1] * scale)
        mouse.down()
        mouse.move(box["x"] + end[0] * scale, box["y"] + end[1] * scale, steps=8)
        mouse.up()
        self.wait_for_fill()

    @property
    def photo(self):
        return pixels(self.page.locator(".pconv-paper img"))[:, :, :3]

    @property
    def holes(self):
        return pixels(self.canvas)[:, :, 3] > 0

    @property
    def result(self):
        """The photo with the fill upon it, as one sees it, and where the fill is opaque."""
        fill = pixels(self.page.locator(".pconv-result"))
        opaque = fill[:, :, 3:] > 0
        return np.where(opaque, fill[:, :, :3], self.photo), opaque[:, :, 0]

    def strip(self):
        """{layer: its mask, bool (H, W), True = valid}."""
        masks = {}
        for canvas in self.page.locator("#try-strip canvas").all():
            layer = canvas.get_attribute("aria-label").split()[3].rstrip(":")
            masks[layer] = (pixels(canvas)[:, :, :3] != HOLE).any(2)
        return masks

    def check(self, model):
        """The fill is PyTorch's and the strip is mask_trace's; all else of the photo is kept."""
        photo, holes = self.photo, self.holes
        result, opaque = self.result
        assert (opaque == holes).all()
        expected = pconv.inpaint(model, photo, holes)
        difference = np.abs(result.astype(int) - expected)
        assert difference[~holes].max() == 0
        assert difference[holes].max() <= 2
        return self.check_strip(model)

    def check_strip(self, model):
        """The strip becomes the mask_trace of what is painted, which is returned."""
        trace = model.mask_trace(torch.from_numpy(~self.holes)[None, None])
        for _ in range(100):
            strip = self.strip()
            assert list(strip) == [name for name, _ in trace]
            wrong = [
                name for name, mask in trace if (strip[name] != (mask[0, 0].numpy() > 0)).any()
            ]
            if not wrong:
                return trace
            self.page.wait_for_timeout(50)
        pytest.fail(f"the strip is not that of the holes: {wrong}")


@pytest.fixture(scope="module")
def model():
    return pconv.load_pretrained()


def test_a_stroke_is_filled_as_pytorch_fills_it(open_page, model):
    painting = Painting(open_page(TRY))
    assert painting.page.evaluate("crossOriginIsolated")  # so it has threads
    before = painting.holes
    painting.check(model)
    painting.drag((60, 40), (180, 60))
    assert before.sum() < painting.holes.sum()
    trace = painting.check(model)
    level = next(i for i, (_, mask) in enumerate(trace, 1) if mask.all())
    assert f"gone at level {level} of 6" in painting.page.locator("#try-strip p").inner_text()
    painting.page.get_by_role("button", name="Undo").click()
    assert (painting.holes == before).all()
    painting.page.get_by_role("button", name="Clear").click()
    painting.wait_for_fill()
    assert "nothing is painted" in painting.page.locator(".pconv-status").inner_text()
    assert all(mask.all() for _, mask in painting.check_strip(model))


def test_other_photos_and_ones_own(open_page, model, tmp_path):
    page = open_page(TRY)
    painting = Painting(page)
    size = """([width, height]) => {
        const canvas = document.querySelector('.pconv-paper canvas');
        return canvas?.width === width && canvas.height === height;
    }"""
    page.locator(".try-photos button").nth(2).click()  # grass, which is gray
    page.wait_for_function(size, arg=[384, 384])
    painting.wait_for_fill()
    assert (painting.photo.max(2) == painting.photo.min(2)).all()
    painting.check(model)
    own = tmp_path / "own.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    coffee = Image.fromarray(pconv.bundled_photos(held_out=True)["coffee"])  # 600 x 400
    coffee.save(own, exif=exif)
    page.locator("#try-own").set_input_files(own)
    page.wait_for_function(size, arg=[256, 384])
    painting.drag((60, 300), (120, 340))
    assert painting.holes.any()
    painting.check(model)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no photo")
    page.locator("#try-own").set_input_files(broken)
    page.locator(".try-problem").wait_for()
    assert "broken.jpg: this browser cannot read it" in page.locator(".try-problem").inner_text()
    page.locator(".try-photos button").first.click()
    page.wait_for_function(size, arg=[384, 256])
    assert not page.locator(".try-problem").is_visible()
    page.locator("#try-own").set_input_files(own)  # the same file once more
    page.wait_for_function(size, arg=[256, 384])
    painting.wait_for_fill()


def test_keyboard_and_touch(open_page):
    page = open_page(TRY, has_touch=True)
    painting = Painting(page)
    before = painting.holes.sum()
    page.locator(".try-photos button").first.focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("[")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    painting.wait_for_fill()
    with_keys = painting.holes.sum()
    assert with_keys > before
    box = painting.canvas.bounding_box()
    page.touchscreen.tap(box["x"] + 20, box["y"] + 20)
    painting.wait_for_fill()
    assert painting.holes.sum() > with_keys


def test_without_a_service_worker_it_runs_in_one_thread_and_says_so(open_page, model):
    without = "delete Navigator.prototype.serviceWorker"
    painting = Painting(open_page(TRY, script=without))
    assert not painting.page.evaluate("crossOriginIsolated")
    assert "one thread, as this browser" in painting.page.locator(".try-network").inner_text()
    painting.check(model)


def test_the_strip_follows_a_stroke_before_it_is_done(open_page, model):
    page = open_page(TRY)
    painting = Painting(page)
    box = painting.canvas.bounding_box()
    before = painting.strip()["encoder.0"]
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 50, steps=5)
    painting.check_strip(model)
    assert (painting.strip()["encoder.0"] != before).any()
    page.mouse.up()
    painting.wait_for_fill()
    painting.check(model)


@pytest.mark.parametrize(
    "missing",
    ["fill.onnx.gz", "masks.onnx.gz", "ort-wasm-simd-threaded.wasm", "fill.js", "onnx.js"],
)
def test_it_says_which_file_is_missing(browser, address, missing):
    context = browser.new_context()
    context.route(f"**/{missing}", lambda route: route.fulfill(status=404, body=""))
    page = context.new_page()
    page.goto(address + TRY)
    page.locator(".try-network.try-problem").wait_for()
    text = page.locator(".try-network").inner_text()
    assert missing in text or "fill.js is missing" in text or "masks.js is missing" in text
    page.locator(".try-photos button").nth(1).click()
    page.locator(".pconv-status").wait_for(state="attached")
    page.wait_for_timeout(500)
    assert page.locator(".pconv-status").inner_text() == ""  # it does not say that it fills
    assert page.locator(".try-network.try-problem").is_visible()
    context.close()


def test_a_stroke_stays_where_it_is_drawn_while_a_fill_arrives(open_page):
    """Clear takes the result away; when the next one comes, the photo must not shrink at once."""
    page = open_page(TRY)
    painting = Painting(page)
    page.get_by_role("button", name="Clear").click()
    painting.wait_for_fill()
    box = painting.canvas.bounding_box()
    mouse = page.mouse
    mouse.move(box["x"] + 40, box["y"] + 40)
    mouse.down()
    mouse.move(box["x"] + 50, box["y"] + 40)
    mouse.up()
    mouse.move(box["x"] + 40, box["y"] + 200)
    mouse.down()
    painting.wait_for_fill()
    mouse.move(box["x"] + 340, box["y"] + 200, steps=5)
    assert painting.canvas.bounding_box() == box
    mouse.up()
    painting.wait_for_fill()
    rows = np.flatnonzero(painting.holes[:, :200].any(1))
    scale = box["width"] / painting.photo.shape[1]
    second = rows[rows > 100]
    assert abs(second.mean() - 200 / scale) < 3 and len(second) < 30  # straight
    assert page.locator(".pconv-side").is_visible()


def test_it_says_what_a_browser_lacks(open_page):
    page = open_page(TRY, script="delete window.DecompressionStream; delete window.OffscreenCanvas")
    page.locator(".try-problem").wait_for()
    text = page.locator(".try-problem").inner_text()
    assert "lacks a canvas in the background" in text and "DecompressionStream" in text
