"""What the READMEs show of measured results, made from data/results.

python scripts/readme_tables.py

writes it into README.md and data/README.md, between the comments that name it.
"""

import json
import re
from pathlib import Path

from pconv.benchmark import mebibytes
from pconv.holes import BUCKETS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "data" / "results"
# (column of the README, key of a row, format, whether more is better)
MEASURES = (
    ("PSNR", "psnr", "{:.2f}", True),
    ("SSIM", "ssim", "{:.3f}", True),
    ("LPIPS", "lpips", "{:.3f}", False),
)
METHODS = ("pconv", "fsr-fast", "telea", "navier-stokes", "biharmonic", "damaged")


def fill_table() -> str:
    """PSNR, SSIM and LPIPS by bucket, the mean of holes inside and at the border; the best bold."""
    means = fill_means()
    lines = [f"| hole ratio | {' | '.join(METHODS)} |", "|---" * (1 + len(METHODS)) + "|"]
    for low, high in BUCKETS:
        columns = []
        for _, key, form, more in MEASURES:
            values = [means[method, low][key] for method in METHODS]
            best = max(values) if more else min(values)
            columns.append(
                [form.format(v) if v != best else f"**{form.format(v)}**" for v in values]
            )
        cells = [" / ".join(cell) for cell in zip(*columns)]
        lines.append(f"| ({low:.2f}, {high:.2f}] | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill_means() -> dict[tuple[str, float], dict[str, float]]:
    """{(method, low end of the bucket): means over holes inside and at the border}."""
    rows = json.loads((RESULTS / "evaluate_kodak.json").read_text())["rows"]
    means = {}
    for low, _ in BUCKETS:
        for method in METHODS:
            both = [row for row in rows if (row["method"], row["low"]) == (method, low)]
            means[method, low] = {
                key: sum(row[key] for row in both) / len(both) for _, key, _, _ in MEASURES
            }
    return means


def fill_verdict() -> str:
    """In words, in how many buckets the shipped weights are ahead of every other method."""
    means = fill_means()
    counts = []
    for name, key, _, more in MEASURES:
        ahead = 0
        for low, _ in BUCKETS:
            mine, *others = (means[method, low][key] for method in METHODS)
            ahead += mine > max(others) if more else mine < min(others)
        counts.append(f"in {ahead} by {name}")
    best = min(METHODS[1:], key=lambda method: sum(means[method, b[0]]["lpips"] for b in BUCKETS))
    return (
        f"Of the {len(BUCKETS)} buckets the shipped weights are ahead of all methods without "
        f"training {counts[0]}, {counts[1]} and {counts[2]}; by LPIPS the best of those is {best}."
    )


def speed_table() -> str:
    """The better memory format of each case, eager.

    Speeds are relative to FP32's at the smaller batch. Where this was not measured on a GPU, the
    table has what `pconv bench` measured there: one batch, no VGG.
    """
    lines = [
        "| | the same batch | twice the batch | peak memory, the same batch |",
        "|---|---|---|---|",
    ]
    for kind, precisions in (("cpu", ("fp32", "bf16")), ("cuda", ("fp32", "tf32", "fp16", "bf16"))):
        record, rows, loss = _read_speed(kind)
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
                cells.append(_relative(row, best) if row else "not measured yet")
            row = best.get((precision, 1))
            cells.append(mebibytes(row["peak_bytes"]) if row else "not measured yet")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _read_speed(kind: str) -> tuple[dict, list[dict], str]:
    """The record of a kind of device, its eager rows, and what its loss lacks."""
    path = RESULTS / f"speed_{kind}.json"
    if path.is_file():
        record = json.loads(path.read_text())
        rows = [row for row in record["rows"] if not row["failed"] and not row["compiled"]]
        return record, rows, ""
    record = json.loads((RESULTS / f"bench_{kind}_512.json").read_text())
    rows = [row for row in record["rows"] if row["layer"] == "partial"]
    batch = record["settings"]["batch"]
    return record, [{**row, "batch": batch} for row in rows], ", without VGG"


def _relative(row: dict, best: dict) -> str:
    """The speed of a row over FP32's; over TF32's, too, where that is PyTorch's default."""
    key = "relative_speed" if "relative_speed" in row else "samples_per_second"
    text = f"{row[key] / best['fp32', 1][key]:.2f}×"
    if row["precision"] in ("fp16", "bf16") and ("tf32", 1) in best:
        text += f" ({row[key] / best['tf32', 1][key]:.2f}× TF32)"
    return text


# What the records are, in the order of data/README.md.
RECORDS = {
    "evaluate_kodak": "the shipped weights beside methods without training, 24 Kodak photos, "
    "256² pixels: L1, PSNR, SSIM, LPIPS",
    "bench_cpu_128": "training step of the U-Net beside plain convolutions and the textbook layer, "
    "128² pixels, batch 4",
    "bench_cpu_256": "the same at 256² pixels, batch 2",
    "bench_cuda_512": "the same for the paper's U-Net on a GPU, 512² pixels, batch 6",
    "bench_cuda_512_compiled": "the same compiled, in BF16",
    "profile_cuda_512": "where the time of that step goes, plain and with partial convolutions",
    "speed_cpu": "the training step with the full loss in every precision, at a batch and at twice "
    "as many, in both memory formats, eager and compiled",
    "speed_cuda": "the same on a GPU, for the paper's U-Net",
    "texture_kodak": "sharpness of the fills, and whether they repeat a pattern, 24 Kodak photos",
    "long_use_cpu": "memory and speed over 2,000 training steps and 300 inpainted strokes",
    "numerics_cpu": "facts of numerics that depend on the device: autocast's rules, epsilons, "
    "overflow, `GradScaler`; expected and actual",
    "numerics_cuda": "the same on a GPU",
    "training_cpu": "the same small U-Net trained in FP32, BF16 and emulated FP16, over seeds: "
    "curves, and the held-out photos by bucket",
    "training_cuda": "the same on a GPU, in FP16",
    "exemplar_cpu": "fills of four textures by the shipped weights, by copied patches and by "
    "methods without training: PSNR and SSIM in the holes, LPIPS",
    "padding_cpu": "what the border of an image costs small networks that differ in their padding "
    "alone, over lengths of training and seeds",
    "gain_cpu": "what BF16 gains over FP32 for a narrow and a wide U-Net, over the size of the "
    "photos, and without units for BF16",
    "filling_cpu": "a hole's pixels filled by gradient descent under one loss after another, with "
    "VGG19's features and with random ones",
    "mask_channel_cpu": "partial convolutions beside a plain network that is given the mask as a "
    "channel, over lengths of training and seeds",
}


def record_table() -> str:
    """The records that are there, each with what it is, where it was measured, and when."""
    lines = ["| file | what | measured on |", "|---|---|---|"]
    for name, what in RECORDS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            record = json.loads(path.read_text())
            where = f"{record['device']['name']}, {record['date']}"
            lines.append(f"| `results/{path.name}` | {what} | {where} |")
    return "\n".join(lines)


FILES = {
    "README.md": {"fills": fill_table, "verdict": fill_verdict, "speed": speed_table},
    "data/README.md": {"records": record_table},
}


def insert_tables(name: str, text: str) -> str:
    """`text` of the file `name`, each table between its comments: <!-- speed --> … <!-- end -->."""
    for table, make in FILES[name].items():
        pattern = rf"(?<=<!-- {table} -->\n).*?(?=\n<!-- end -->)"
        text, count = re.subn(pattern, lambda _, make=make: make(), text, flags=re.S)
        if count != 1:
            raise ValueError(f"{name} has {count} places for the table {table!r}, expected 1")
    return text


def update_readmes() -> None:
    for name in FILES:
        path = ROOT / name
        path.write_text(insert_tables(name, path.read_text()))


if __name__ == "__main__":
    update_readmes()
