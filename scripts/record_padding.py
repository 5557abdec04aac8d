"""Records what the border of an image costs a network, by padding and by length of training.

python scripts/record_padding.py --json data/results/padding_cpu.json

The networks are those of notebook 03 (`course.padding`): for one seed they begin with the same
weights and see the same batches, and only their padding differs. Every length of training is a run
of its own, as the learning rate falls to its end. Each network is measured on every photo that is
held out.

Written network by network; started again with the same settings, it trains what is missing.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

import pconv
from pconv.benchmark import provenance
from pconv.devices import resolve_device
from pconv.files import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course import padding as experiment
from course.records import missing_cases, recorded_rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7")
    parser.add_argument("--steps", default="80,300,1000,3000", help="lengths of training")
    parser.add_argument("--squares", type=int, default=96, help="measured per photo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(1)  # layers as small as these have no work for more
    seeds = [int(seed) for seed in options.seeds.split(",")]
    lengths = [int(steps) for steps in options.steps.split(",")]
    photos, held_out = (
        experiment.half_size_gray(pconv.bundled_photos(held_out=held_out))
        for held_out in (False, True)
    )
    side = experiment.SIZE + 2 * experiment.AROUND
    measured = {
        name: experiment.draw_squares(
            [photo], options.squares, side, torch.Generator().manual_seed(99)
        )
        for name, photo in held_out.items()
    }
    origin = provenance(
        device, seeds, steps=lengths, squares=options.squares, held_out=list(held_out)
    )
    rows = recorded_rows(options.json, origin)
    cases = missing_cases(rows, steps=lengths, seed=seeds, padding=experiment.PADDINGS)
    for steps, seed, padding in tqdm(cases, desc="networks"):
        network = experiment.make_network(padding, seed)
        batches = experiment.training_batches(list(photos.values()), steps, seed)
        experiment.train(network, batches, steps, device)
        for name, (damaged, clean) in measured.items():
            border = experiment.measure_border(network, damaged.to(device), clean.to(device))
            rows.append({"steps": steps, "seed": seed, "padding": padding, "photo": name} | border)
        write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
