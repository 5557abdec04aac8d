"""Times the training step in every precision, batch, memory format, eager and compiled, and records it for notebook 08.

python data/record_speed.py --json data/results/speed_cpu.json

On a GPU, with the paper's U-Net:

python data/record_speed.py --device cuda --size 512 --batch 6 --widths 64,128,256,512,512,512,512,512 --compile \
    --repeats 9 --json data/results/speed_cuda.json

Every row is measured in turns with FP32 (TF32 off) at the smaller batch, contiguous and eager. A row that this device
cannot do, or has no memory for, says so under `failed`.

`python data/record_speed.py table` prints the README's table, which is made of the two files.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import pconv
from pconv.benchmark import megabytes, provenance
from pconv.demo import WIDTHS
from pconv.history import write_json
from pconv.precision import get_precision, speed_note
from pconv.train import pick_device

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course.speed import Case, matmul_speed, measure_speed

QUANTITIES = ("seconds", "samples_per_second", "relative_speed", "peak_bytes", "flops", "matmul_flops_per_second")


def record(options: argparse.Namespace, loss: pconv.InpaintingLoss) -> Iterator[dict]:
    """A row for each case: what was measured, and the FLOP/s of a large product; or None, and why under `failed`."""
    notes = {name: refusal(name, options.device) for name in options.precision}
    others = (options.batch, 2 * options.batch), (False, True), (False, True)[: 1 + options.compile]
    possible = [name for name in options.precision if not notes[name]]
    peaks = {name: matmul_speed(get_precision(name, options.device), options.device) for name in possible}
    cases = [Case(*case) for case in product(possible, *others)]
    rows = measure_speed(cases, loss, options.size, options.widths, options.device, options.repeats)
    refused = (Case(*case) for case in product(filter(notes.get, notes), *others))
    for row in chain(rows, ({**case._asdict(), "failed": notes[case.precision]} for case in refused)):
        if "failed" not in row:
            row["matmul_flops_per_second"] = peaks[row["precision"]]
        yield {name: row.get(name) for name in (*Case._fields, *QUANTITIES, "failed")}


def refusal(precision: str, device) -> str | None:
    """Why a precision is not measured on this device, or None."""
    try:
        get_precision(precision, device)
    except ValueError as error:
        return str(error)
    return speed_note(precision, device) if "fp16" in precision else None


def tell(row: dict) -> None:
    layout, way = "channels last" if row["channels_last"] else "contiguous", "compiled" if row["compiled"] else "eager"
    text = row["failed"] or (
        f"{row['samples_per_second']:8.2f} samples/s{row['relative_speed']:7.2f}×{megabytes(row['peak_bytes']):>10}"
        f"{row['flops'] / row['seconds'] / row['matmul_flops_per_second']:7.0%} of the speed of a product"
    )
    print(f"{row['precision']:<10}batch {row['batch']:<4}{layout:<15}{way:<10}{text}", flush=True)


def table() -> str:
    """The README's table: the better memory format of each case, eager, relative to FP32's at the smaller batch.

    Where this was not measured on a GPU, what `pconv bench` measured there: one batch, no VGG.
    """
    lines = ["| | the same batch | twice the batch | peak memory, the same batch |", "|---|---|---|---|"]
    for kind, precisions in (("cpu", ("fp32", "bf16")), ("cuda", ("fp32", "tf32", "fp16", "bf16"))):
        results = Path(__file__).parent / "results"
        path = results / f"speed_{kind}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            rows, loss = [row for row in found["rows"] if not row["failed"] and not row["compiled"]], ""
        else:
            found, loss = json.loads((results / f"bench_{kind}_512.json").read_text()), ", without VGG"
            rows = [{**row, "batch": found["settings"]["batch"]} for row in found["rows"] if row["layer"] == "partial"]
        device, (size, batch) = found["device"], (found["settings"][name] for name in ("size", "batch"))
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
            lines.append("| " + " | ".join([*cells, megabytes(best[precision, 1]["peak_bytes"])]) + " |")
    return "\n".join(lines)


def _ratio(row: dict, base: dict) -> str:
    speed = "relative_speed" if "relative_speed" in row else "samples_per_second"
    return f"{row[speed] / base[speed]:.2f}×"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32,tf32,fp16,bf16")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=4, help="each case is measured with it, and with twice as many")
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.device = pick_device(options.device)
    options.widths = [int(width) for width in options.widths.split(",")]
    options.precision = ["fp32", *(name for name in options.precision.split(",") if name != "fp32")]
    loss = pconv.InpaintingLoss(pconv.VGGFeatures.available())
    settings = {name: getattr(options, name) for name in ("size", "batch", "widths", "compile", "repeats")}
    origin, rows = provenance(options.device, 0, vgg=loss.features.weights, **settings), []
    for row in record(options, loss):
        rows.append(row)
        tell(row)
        write_json(options.json, rows, origin)  # what is measured is kept, whatever becomes of the rest


if __name__ == "__main__":
    print(table()) if sys.argv[1:] == ["table"] else main()
