"""The command line: pconv demo | train | evaluate | inpaint | bench (also `python -m pconv`)."""

import argparse
import errno
import logging
import sys
import warnings

from pconv.cli import bench, demo, evaluate, inpaint, train
from pconv.cli.common import Parser, cli_errors
from pconv.devices import resolve_device


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; without `arguments`, that of the process."""
    _set_up_output()
    options = make_parser().parse_args(arguments)
    with cli_errors():
        options.device = resolve_device(options.device)
    try:
        options.run(options)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"pconv: {error}")  # a full disk is not a bug


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pconv", description="Image inpainting with partial convolutions, in mixed precision."
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for command in (demo, train, evaluate, inpaint, bench):
        command.add_parser(commands)
    return parser


def _set_up_output() -> None:
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold bytes that are not text
        sys.stdout.reconfigure(errors="backslashreplace")
    # What is wrong with a photo is said in one line, by `cli_errors`.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
