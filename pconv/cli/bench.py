"""`pconv bench`: what a training step costs with plain, partial and textbook convolutions."""

import argparse
from pathlib import Path

from pconv.benchmark import benchmark_training, megabytes, provenance
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
    parser.add_argument("--json", type=Path, help="write the table here, with its provenance")


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        for name in options.precision:
            get_precision(name, options.device)
        if options.json:
            check_output_file(options.json)
    settings = {
        "size": options.size,
        "widths": options.widths,
        "channels_last": options.channels_last,
        "repeats": options.repeats,
        "steps_between_syncs": options.steps_between_syncs,
    }
    rows = benchmark_training(
        options.precision,
        batch_size=options.batch,
        compile=options.compile,
        device=options.device,
        seed=options.seed,
        **settings,
    )
    _print_rows(rows)
    for name in options.precision:
        warning = performance_warning(name, options.device)
        if warning:
            print(f"Note: {warning}.")
    if options.json:
        settings |= {"batch": options.batch, "compiled": options.compile}
        write_json(options.json, rows, provenance(options.device, options.seed, **settings))


def _print_rows(rows: list[dict]) -> None:
    unsynced = "unsynced_seconds" in rows[0]
    header = f"{'precision':<11}{'layer':<10}{'ms/step':>9}{'samples/s':>11}{'time':>8}"
    header += f"{'unsynced':>10}{'time':>8}" if unsynced else ""
    print(f"{header}{'saved':>10}{'peak':>10}")
    for row in rows:
        line = f"{row['precision']:<11}{row['layer']:<10}{1000 * row['seconds']:>9.1f}"
        line += f"{row['samples_per_second']:>11.2f}{row['relative_time']:>7.2f}×"
        if unsynced:
            line += f"{1000 * row['unsynced_seconds']:>10.1f}"
            line += f"{row['unsynced_relative_time']:>7.2f}×"
        print(f"{line}{megabytes(row['saved_bytes']):>10}{megabytes(row['peak_bytes']):>10}")
