"""The command line: `pconv COMMAND`, also `python -m pconv COMMAND`."""

import argparse
import errno
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence

from pconv.cli.common import Parser, cli_errors
from pconv.devices import resolve_device

COMMANDS = ("demo", "train", "evaluate", "inpaint", "bench", "export")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; without `arguments`, that of the process."""
    run(parse(arguments))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a command, whose function is in `run`."""
    _set_up_output()
    if arguments is None:
        arguments = sys.argv[1:]
    return make_parser(arguments[:1]).parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        options.device = resolve_device(options.device)
    try:
        options.run(options)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"pconv: {error}")  # a full disk is not a bug


def make_parser(wanted: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands, or of the one that is wanted: only its modules are imported."""
    parser = Parser(
        prog="pconv", description="Image inpainting with partial convolutions, in mixed precision."
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name in COMMANDS:
        if name in wanted or not set(wanted) & set(COMMANDS):
            importlib.import_module(f"pconv.cli.{name}").add_parser(commands)
    return parser


def _set_up_output() -> None:
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold bytes that are not text
        sys.stdout.reconfigure(errors="backslashreplace")
    # What is wrong with a photo is said in one line, by `cli_errors`.
    warnings.filterwarnings("ignore", module="PIL")
    for library in ("PIL", "imagecodecs", "tifffile"):
        logging.getLogger(library).addHandler(logging.NullHandler())
