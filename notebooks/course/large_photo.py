"""What it takes to fill a large photo: how many pixels a network computes, time and memory."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil  # ipykernel needs it as well
from torch import nn


class Cost(NamedTuple):
    """pixels: all that the model was given; seconds; memory: bytes that came on top, at most."""

    pixels: int
    seconds: float
    memory: int


def watch(call: Callable[[], object], model: nn.Module) -> tuple[object, Cost]:
    """What `call` returns, and what it took.

    model: (image, mask) -> image; its pixels are counted, all calls together.
    """
    process, counted, done = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def sample() -> None:
        while not done.wait(0.005):
            peak.append(max(peak.pop(), process.memory_info().rss))

    handle = model.register_forward_hook(
        lambda module, inputs, output: counted.append(inputs[1].numel())
    )
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    start = time.perf_counter()
    try:
        result = call()
    finally:
        seconds = time.perf_counter() - start
        done.set()
        thread.join()
        handle.remove()
    return result, Cost(sum(counted), seconds, peak[0] - before)
