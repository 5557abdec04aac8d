"""Records how fills of textures score, by PSNR, SSIM and LPIPS, beside how they look.

python scripts/record_exemplar.py --lpips lpips_squeeze.safetensors \
    --json data/results/exemplar_cpu.json

Square holes at random places of four textures, filled by the shipped network (`pconv`), by copied
patches (`course.exemplar`) and by the methods of `pconv.metrics.classical`; OpenCV's contrib
modules are needed. LPIPS is that of the whole crop of 256x256 pixels, as `pconv evaluate` has it.

Written fill by fill; started again with the same settings, it measures what is missing.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

import pconv
from pconv.benchmark import provenance
from pconv.devices import resolve_device
from pconv.files import write_json
from pconv.inpainting import pretrained_file
from pconv.lpips import LPIPS
from pconv.metrics import classical, compare

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course.exemplar import exemplar_fill, square_hole, texture_photos
from course.records import recorded_rows

SEED = 0  # of the places
MARGIN = 24  # pixels, at least, between a hole and the border


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="32,64,96", help="of the holes, in pixels")
    parser.add_argument("--places", type=int, default=4, help="holes per texture and width")
    parser.add_argument("--lpips", type=Path, required=True, help="as of `pconv evaluate`")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    device = resolve_device(options.device)
    judge = LPIPS.from_file(options.lpips)
    model = pconv.load_pretrained(device)
    methods = {"pconv": partial(pconv.inpaint, model), "exemplar": exemplar_fill, **classical()}
    methods.pop("navier-stokes")  # as telea
    widths = [int(width) for width in options.widths.split(",")]
    textures = texture_photos(pconv.bundled_photos())
    origin = provenance(
        device,
        SEED,
        weights=pretrained_file().name,
        lpips=options.lpips.name,
        widths=widths,
        places=options.places,
        methods=list(methods),
    )
    rows = recorded_rows(options.json, origin)
    done = {(row["photo"], row["width"], row["place"], row["method"]) for row in rows}
    holes = {}
    for width in widths:
        for place in range(options.places):
            rng = np.random.default_rng((SEED, width, place))
            edge = MARGIN + width // 2
            center = rng.integers(edge, 256 - edge, 2, endpoint=True)
            holes[width, place] = square_hole(width, center)
    wanted = [(photo, *case, method) for photo in textures for case in holes for method in methods]
    for case in tqdm(wanted, desc="fills"):
        if case in done:
            continue
        name, width, place, method = case
        photo, hole = textures[name], holes[width, place]
        quality = compare(methods[method](photo, hole), photo, hole, judge)
        row = {"photo": name, "width": width, "place": place, "method": method}
        rows.append(row | {key: quality[key] for key in ("psnr_holes", "ssim_holes", "lpips")})
        write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
