"""Many strokes: each has a result, and memory does not grow, in the kernel and in the browser.

A longer run, which prints its figures:

    STROKES=300 .venv/bin/python -m pytest -s tests/browser/test_long_use.py
"""

import os

import numpy as np
from test_lab import drag

STROKES = int(os.environ.get("STROKES", "40"))
# The bytes that the kernel uses, after garbage is collected and returned by the allocator.
MEMORY = """[__import__("gc").collect(), __import__("ctypes").CDLL(None).malloc_trim(0),
__import__("psutil").Process().memory_info().rss][2]"""
# Seconds from the lifted brush to the result on the page, on the page's own clock: only printed.
WATCH = """() => {
    const result = document.querySelector(".pconv-result");
    let lifted = null;
    window.answered = [];
    document.addEventListener("pointerup", (event) => {
        if (event.target.tagName === "CANVAS") lifted = performance.now();  // not a button
    }, true);
    result.addEventListener("load", () => {
        if (lifted !== null) window.answered.push((performance.now() - lifted) / 1000);
        lifted = null;
    });
}"""


def test_every_stroke_in_notebook_11_has_a_result_and_memory_stays(notebook):
    page = notebook("11_inpaint_your_photo.ipynb")
    page.run()
    canvas, shape = page.show("from io import BytesIO").locator("canvas"), page.holes().shape
    chrome = page.page.context.new_cdp_session(page.page)

    def memory() -> tuple[float, float]:
        """MB of the kernel and of the page's JavaScript, after garbage is collected."""
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
            page.page.wait_for_function(
                "document.querySelector('.pconv-status').textContent.endsWith(' s')"
            )
            used.append(memory())
    seconds = page.page.evaluate("window.answered")
    # (kernel, page); the least of each half, without what comes and goes
    first, later = (np.min(half, 0) for half in np.array_split(used, 2))
    print(
        f"\n{STROKES} strokes on a photo of {shape}: "
        f"result in {np.median(seconds):.2f} s, at most {max(seconds):.2f} s"
    )
    print(
        "MB, every 10 strokes: kernel",
        [round(k) for k, _ in used],
        "page",
        [round(h, 1) for _, h in used],
    )
    assert len(seconds) == STROKES
    assert later[0] < 1.08 * first[0] and later[1] < 1.2 * first[1]
