"""Records how well partial convolutions fill, beside a plain network with the mask as a channel.

python scripts/record_mask_channel.py --json data/results/mask_channel_cpu.json

The experiment is that of notebook 01 (`course.mask_channel`): two U-Nets of the same widths, the
same crops and holes for one seed, several lengths of training.

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
from course import mask_channel as experiment
from course.records import missing_cases, recorded_rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--steps", default="100,300,1000,3000", help="lengths of training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    lengths = [int(steps) for steps in options.steps.split(",")]
    photos = list(pconv.bundled_photos().values())
    held_out = pconv.bundled_photos(held_out=True)
    origin = provenance(device, seeds, steps=lengths, held_out=list(held_out))
    rows = recorded_rows(options.json, origin)
    cases = missing_cases(rows, steps=lengths, seed=seeds, network=experiment.NETWORKS)
    for steps, seed, name in tqdm(cases, desc="networks"):
        model = experiment.make_network(name, seed)
        experiment.train(model, photos, steps, seed, device)
        who = {"steps": steps, "seed": seed, "network": name}
        for holes, ratio in experiment.MEASURED.items():
            errors = experiment.error_in_holes(model, held_out, ratio, device)
            rows += [
                who | {"holes": holes, "photo": photo, "error": error}
                for photo, error in errors.items()
            ]
        write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
