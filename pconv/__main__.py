"""`python -m pconv`, and the command `pconv`."""

import os
import signal
import sys


def main() -> None:
    """Runs the command line; Ctrl-C ends it with exit status 130, without a traceback."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell
        _run()
        return
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


if __name__ == "__main__":
    main()
