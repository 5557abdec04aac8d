"""`pconv bench`: what a training step costs with plain, partial and textbook convolutions."""

import argparse
from pathlib import Path

from pconv.benchmark import VARIANTS, benchmark_training, check_variants, mebibytes, provenance
from pconv.cli.common import add_command, check_output_file, cli_errors, name_list, positive_int
from pconv.devices import performance_warning
from pconv.files import write_json
from pconv.precision import PRECISIONS, get_precision


def add_parser(commands) -> None:
    parser = add_command(
        commands,
        "bench",
        run,
        "Time the U-Net beside plain convolutions and the textbook layer.",
        size=128,
        batch=4,
        widths=(64, 128, 256, 512, 512),
    )
    names = ", ".join(PRECISIONS)
    parser.add_argument(
        "--precision", type=name_list, default=("fp32", "bf16"), help=f"some of {names}"
    )
    parser.add_argument("--channels-last", action="store_true", help="use channels-last memory")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--repeats", type=positive_int, default=7, help="turns that each variant takes"
    )
    parser.add_argument(
        "--steps-between-syncs",
        type=positive_int,
        default=1,
        metavar="N",
        help="with more than 1, also time N steps between two waits for the device, as in training",
    )
    parser.add_argument(
        "--layers",
        type=name_list,
        default=tuple(VARIANTS),
        help=f"plain, and some of {', '.join(VARIANTS)}",
    )
    parser.add_argument("--json", type=Path, help="write the table here, with its provenance")


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        for name in options.precision:
            get_precision(name, options.device)
        check_variants(options.layers)
        if options.json:
            check_output_file(options.json)
    names = ("size", "batch", "widths", "channels_last", "repeats", "steps_between_syncs")
    settings = {name: getattr(options, name) for name in names} | {"compiled": options.compile}
    origin = provenance(options.device, options.seed, **settings)
    _print_header(options.steps_between_syncs > 1)
    rows = []
    for name in options.precision:
        rows += (new := _measure(options, name))
        _print_rows(new)
        if options.json:  # written now: it is kept, whatever becomes of the rest
            write_json(options.json, rows, origin)
    for name in options.precision:
        warning = performance_warning(name, options.device)
        if warning:
            print(f"Note: {warning}.")


def _measure(options: argparse.Namespace, precision: str) -> list[dict]:
    return benchmark_training(
        (precision,),
        size=options.size,
        batch_size=options.batch,
        widths=options.widths,
        device=options.device,
        channels_last=options.channels_last,
        compile=options.compile,
        repeats=options.repeats,
        steps_between_syncs=options.steps_between_syncs,
        variants=options.layers,
        seed=options.seed,
    )


def _print_header(unsynced: bool) -> None:
    header = f"{'precision':<11}{'layer':<10}{'ms/step':>9}{'samples/s':>11}{'time':>8}"
    header += f"{'unsynced':>10}{'time':>8}" if unsynced else ""
    print(f"{header}{'saved':>10}{'peak':>10}", flush=True)


def _print_rows(rows: list[dict]) -> None:
    for row in rows:
        line = f"{row['precision']:<11}{row['layer']:<10}{1000 * row['seconds']:>9.1f}"
        line += f"{row['samples_per_second']:>11.2f}{row['relative_time']:>7.2f}×"
        if "unsynced_seconds" in row:
            line += f"{1000 * row['unsynced_seconds']:>10.1f}"
            line += f"{row['unsynced_relative_time']:>7.2f}×"
        line += f"{mebibytes(row['saved_bytes']):>10}{mebibytes(row['peak_bytes']):>10}"
        print(line, flush=True)
