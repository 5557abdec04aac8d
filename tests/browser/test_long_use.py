"""Many strokes: memory stays, in the kernel and in the browser, and a result comes soon.

STROKES=300 .venv/bin/python -m pytest -s tests/browser/test_long_use.py    prints the figures of a longer run
"""

import os

import numpy as np
from test_lab import drag

STROKES = int(os.environ.get("STROKES", "40"))
# Of the kernel, in bytes, of what is in use: garbage, and what the allocator keeps of it, given back first.
MEMORY = """[__import__("gc").collect(), __import__("ctypes").CDLL(None).malloc_trim(0),
__import__("psutil").Process().memory_info().rss][2]"""
# From the lifted brush to the result on the page, on the page's own clock.
WATCH = """() => {
    const result = document.querySelector(".pconv-result");
    let lifted = null;
    window.answered = [];
    document.addEventListener("pointerup", () => (lifted = performance.now()), true);
    result.addEventListener("load", () => {
        if (lifted !== null) window.answered.push((performance.now() - lifted) / 1000);
        lifted = null;
    });
}"""


def test_strokes_in_notebook_09_are_answered_soon_and_memory_stays(notebook):
    page = notebook("09_inpaint_your_photo.ipynb")
    page.run()
    canvas, shape = page.show("from io import BytesIO").locator("canvas"), page.holes().shape
    chrome = page.page.context.new_cdp_session(page.page)

    def memory() -> tuple[float, float]:
        """Of the kernel and of the page's JavaScript, in MB, after what is garbage has been collected."""
        chrome.send("HeapProfiler.collectGarbage")
        heap = page.page.evaluate("performance.memory.usedJSHeapSize")
        return page.ask(MEMORY) / 2**20, heap / 2**20

    page.page.evaluate(WATCH)
    rng, used = np.random.default_rng(0), []
    for stroke in range(1, STROKES + 1):
        drag(page, canvas, *rng.integers(10, np.array(shape) - 10, (2, 2)).tolist(), shape)
        page.page.wait_for_function("count => window.answered.length === count", arg=stroke)
        if stroke % 10 == 0:
            page.page.get_by_role("button", name="Clear").click()
            page.page.wait_for_function("document.querySelector('.pconv-status').textContent.endsWith(' s')")
            used.append(memory())
    seconds = page.page.evaluate("window.answered")
    first, later = (np.min(half, 0) for half in np.array_split(used, 2))  # (kernel, page): what comes and goes left out
    print(
        f"\n{STROKES} strokes on a photo of {shape}: result in {np.median(seconds):.2f} s, at most {max(seconds):.2f} s"
    )
    print("MB, every 10 strokes: kernel", [round(k) for k, _ in used], "page", [round(h, 1) for _, h in used])
    assert np.median(seconds) < 4  # a bound for slow machines; on two quiet cores it is well under a second
    assert later[0] < 1.08 * first[0] and later[1] < 1.2 * first[1]
