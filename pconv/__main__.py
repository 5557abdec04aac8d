"""`python -m pconv`, and the command `pconv`."""

import os
import signal
import sys


class _Output:
    """Standard output that a reader such as `head` may close: what follows is not printed.

    The command goes on, and still writes its files.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._guard(self._stream.write, text) or len(text)

    def flush(self) -> None:
        self._guard(self._stream.flush)

    def _guard(self, function, *arguments):
        try:
            return function(*arguments)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def main() -> None:
    """Runs the command line; Ctrl-C ends it with exit status 130, without a traceback."""
    sys.stdout = _Output(sys.stdout)
    # Modules do not bear being interrupted while they are imported, and nothing is written yet.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        _run(lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    except KeyboardInterrupt:
        print("pconv: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(on_start=lambda: None) -> None:
    from pconv.cli import parse, run

    options = parse()
    on_start()
    run(options)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
