"""Times the training step in every precision, batch and memory format, for notebook 08.

python scripts/record_speed.py --json data/results/speed_cpu.json

On a GPU, with the paper's U-Net:

python scripts/record_speed.py --device cuda --size 512 --batch 6 \
    --widths 64,128,256,512,512,512,512,512 --compile --repeats 9 \
    --json data/results/speed_cuda.json

Every row is measured in turns with FP32 (TF32 off) at the smaller batch, contiguous and eager.
A row that this device cannot do, or has no memory for, gives the reason under `failed`.

`python scripts/record_speed.py table` prints the README's table, which is made of the two files.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import pconv
from pconv.benchmark import megabytes, provenance
from pconv.devices import performance_warning, resolve_device
from pconv.files import write_json
from pconv.precision import get_precision
from pconv.unet import SMALL_WIDTHS

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course.speed import Case, matmul_speed, measure_speed

QUANTITIES = (
    "seconds",
    "samples_per_second",
    "relative_speed",
    "peak_bytes",
    "flops",
    "matmul_flops_per_second",
)


def measure(options: argparse.Namespace, loss: pconv.InpaintingLoss) -> Iterator[dict]:
    """Yields one row per case: what was measured, and the FLOP/s of a large product.

    Where a case cannot be measured these are None, and `failed` has the reason.
    """
    notes = {name: reason_to_skip(name, options.device) for name in options.precision}
    others = (options.batch, 2 * options.batch), (False, True), (False, True)[: 1 + options.compile]
    possible = [name for name in options.precision if not notes[name]]
    peaks = {
        name: matmul_speed(get_precision(name, options.device), options.device) for name in possible
    }
    cases = [Case(*case) for case in product(possible, *others)]
    rows = measure_speed(cases, loss, options.size, options.widths, options.device, options.repeats)
    skipped = (Case(*case) for case in product(filter(notes.get, notes), *others))
    reasons = ({**case._asdict(), "failed": notes[case.precision]} for case in skipped)
    for row in chain(rows, reasons):
        if "failed" not in row:
            row["matmul_flops_per_second"] = peaks[row["precision"]]
        yield {name: row.get(name) for name in (*Case._fields, *QUANTITIES, "failed")}


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
        text += f"{megabytes(row['peak_bytes']):>10}{share:7.0%} of the speed of a product"
    print(f"{row['precision']:<10}batch {row['batch']:<4}{layout:<15}{way:<10}{text}", flush=True)


def table() -> str:
    """The README's table: the better memory format of each case, eager.

    Speeds are relative to FP32's at the smaller batch. Where this was not measured on a GPU, the
    table has what `pconv bench` measured there: one batch, no VGG.
    """
    lines = [
        "| | the same batch | twice the batch | peak memory, the same batch |",
        "|---|---|---|---|",
    ]
    for kind, precisions in (("cpu", ("fp32", "bf16")), ("cuda", ("fp32", "tf32", "fp16", "bf16"))):
        results = Path(__file__).parents[1] / "data" / "results"
        path = results / f"speed_{kind}.json"
        if path.is_file():
            record = json.loads(path.read_text())
            rows = [row for row in record["rows"] if not row["failed"] and not row["compiled"]]
            loss = ""
        else:
            record = json.loads((results / f"bench_{kind}_512.json").read_text())
            rows = [row for row in record["rows"] if row["layer"] == "partial"]
            rows = [{**row, "batch": record["settings"]["batch"]} for row in rows]
            loss = ", without VGG"
        device = record["device"]
        size = record["settings"]["size"]
        batch = record["settings"]["batch"]
        units = f" ({device['bf16_units']})" if device.get("bf16_units") else ""
        where = f"{device['name']}{units}, {size}² pixels, batch {batch}{loss}"
        best = {}
        for row in sorted(rows, key=lambda row: row["samples_per_second"]):
            best[row["precision"], row["batch"] // batch] = row
        for precision in precisions:
            cells = [f"{where}, {precision.upper()}"]
            for times in (1, 2):
                row = best.get((precision, times))
                cells.append(_ratio(row, best["fp32", 1]) if row else "not measured yet")
            lines.append(
                "| " + " | ".join([*cells, megabytes(best[precision, 1]["peak_bytes"])]) + " |"
            )
    return "\n".join(lines)


def _ratio(row: dict, base: dict) -> str:
    speed = "relative_speed" if "relative_speed" in row else "samples_per_second"
    return f"{row[speed] / base[speed]:.2f}×"


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
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.device = resolve_device(options.device)
    options.widths = [int(width) for width in options.widths.split(",")]
    options.precision = ["fp32", *(name for name in options.precision.split(",") if name != "fp32")]
    loss = pconv.InpaintingLoss(pconv.VGGFeatures.available())
    settings = {
        name: getattr(options, name) for name in ("size", "batch", "widths", "compile", "repeats")
    }
    origin, rows = provenance(options.device, 0, vgg=loss.features.weights, **settings), []
    for row in measure(options, loss):
        rows.append(row)
        print_row(row)
        # written now: it is kept, whatever becomes of the rest
        write_json(options.json, rows, origin)


if __name__ == "__main__":
    print(table()) if sys.argv[1:] == ["table"] else main()
