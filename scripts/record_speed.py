"""Times the training step in every precision, batch and memory format, for notebook 09.

python scripts/record_speed.py --json data/results/speed_cpu.json

On a GPU, with the paper's U-Net:

python scripts/record_speed.py --device cuda --size 512 --batch 6 \
    --widths 64,128,256,512,512,512,512,512 --compile fp32,fp16,bf16 --repeats 9 \
    --json data/results/speed_cuda.json

Every row is measured in turns with FP32 (TF32 off) at the smaller batch, contiguous and eager.
A row that this device cannot do, or has no memory for, gives the reason under `failed`. Rows are
written one by one; started again with the same settings, it measures those that are missing.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pconv
from pconv.benchmark import mebibytes, provenance
from pconv.devices import performance_warning, resolve_device
from pconv.files import write_json
from pconv.precision import get_precision
from pconv.unet import SMALL_WIDTHS

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course.records import choose_features, recorded_rows
from course.speed import Case, matmul_speed, measure_speed

QUANTITIES = (
    "seconds",
    "samples_per_second",
    "relative_speed",
    "peak_bytes",
    "flops",
    "matmul_flops_per_second",
)


def list_cases(precisions: Sequence[str], batch: int, compiled: Sequence[str]) -> list[Case]:
    """All cases, the base first, then in the order of what they tell.

    Channels-last comes before contiguous memory, as half-precision units want it. Compiled is only
    the smaller batch: a compilation takes most of a minute.
    """
    eager = {
        layout: [Case(name, b, layout) for b in (batch, 2 * batch) for name in precisions]
        for layout in (True, False)
    }
    compiled = [Case(name, batch, True, True) for name in precisions if name in compiled]
    cases = [Case("fp32", batch), *eager[True], *compiled, *eager[False]]
    return list(dict.fromkeys(cases))


def measure(
    options: argparse.Namespace, loss: pconv.InpaintingLoss, recorded: Sequence[dict] = ()
) -> Iterator[dict]:
    """Yields one row per case: what was measured, and the FLOP/s of a large product.

    Where a case cannot be measured these are None, and `failed` has the reason. Cases among the
    rows `recorded` are left out.
    """
    done = {Case(**{name: row[name] for name in Case._fields}) for row in recorded}
    cases = list_cases(options.precision, options.batch, options.compile)
    notes = {name: reason_to_skip(name, options.device) for name in options.precision}
    missing = [case for case in cases if case not in done and not notes[case.precision]]
    peaks = {}
    if missing:
        # The base is what the others are measured beside, whether or not its own row is needed.
        turns = [cases[0], *(case for case in missing if case != cases[0])]
        for row in measure_speed(
            turns, loss, options.size, options.widths, options.device, options.repeats
        ):
            if Case(**{name: row[name] for name in Case._fields}) in done:
                continue
            if "failed" not in row:
                name = row["precision"]
                if name not in peaks:
                    precision = get_precision(name, options.device)
                    peaks[name] = matmul_speed(precision, options.device)
                row["matmul_flops_per_second"] = peaks[name]
            yield _complete(row)
    for case in cases:
        if case not in done and notes[case.precision]:
            yield _complete({**case._asdict(), "failed": notes[case.precision]})


def _complete(row: dict) -> dict:
    return {name: row.get(name) for name in (*Case._fields, *QUANTITIES, "failed")}


def reason_to_skip(precision: str, device) -> str | None:
    """Why a precision is not measured on this device, or None."""
    try:
        get_precision(precision, device)
    except ValueError as error:
        return str(error)
    return performance_warning(precision, device) if "fp16" in precision else None


def print_row(row: dict) -> None:
    layout = "channels last" if row["channels_last"] else "contiguous"
    way = "compiled" if row["compiled"] else "eager"
    text = row["failed"]
    if not text:
        share = row["flops"] / row["seconds"] / row["matmul_flops_per_second"]
        text = f"{row['samples_per_second']:8.2f} samples/s{row['relative_speed']:7.2f}×"
        text += f"{mebibytes(row['peak_bytes']):>10}{share:7.0%} of the speed of a product"
    print(f"{row['precision']:<10}batch {row['batch']:<4}{layout:<15}{way:<10}{text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="fp32,tf32,fp16,bf16")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--batch", type=int, default=4, help="each case is measured with it, and with twice as many"
    )
    parser.add_argument("--widths", default=",".join(map(str, SMALL_WIDTHS)))
    parser.add_argument(
        "--compile", default="", help="precisions to measure compiled, too, at the smaller batch"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--vgg", help="random, imagenet or a file (default: imagenet, where it can be had)"
    )
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.device = resolve_device(options.device)
    options.widths = [int(width) for width in options.widths.split(",")]
    options.precision = ["fp32", *(name for name in options.precision.split(",") if name != "fp32")]
    options.compile = options.compile.split(",") if options.compile else []
    features = choose_features(options.vgg)
    loss = pconv.InpaintingLoss(features)
    settings = {
        name: getattr(options, name) for name in ("size", "batch", "widths", "compile", "repeats")
    }
    origin = provenance(options.device, 0, vgg=loss.features.weights, **settings)
    rows = recorded_rows(options.json, origin)
    for row in measure(options, loss, list(rows)):
        rows.append(row)
        print_row(row)
        # written now: it is kept, whatever becomes of the rest
        write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
