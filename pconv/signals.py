"""Ctrl-C while training: the step is finished and saved first."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_sigint() -> Iterator[list]:
    """A list that Ctrl-C fills, instead of raising KeyboardInterrupt, as long as this lasts.

    A line on stderr says at once that it was heard.

    Python lets only the main thread handle signals; in another thread the list stays empty.
    """
    interrupts = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def note(*_) -> None:
        if not interrupts:
            os.write(2, b"\npconv: stopping after this step ...\n")
        interrupts.append(True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_sigint(worker: int) -> None:
    """For a worker process, which Ctrl-C reaches too: the trainer saves, then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
