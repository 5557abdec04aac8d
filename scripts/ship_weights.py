"""Makes trained weights the shipped ones, in two steps; data/README.md has the commands.

python scripts/ship_weights.py pack runs/…/weights.safetensors
pconv evaluate --photos … --json data/results/evaluate_kodak.json
python scripts/ship_weights.py finish

`pack` writes data/pconv_small.safetensors, in half precision. `finish` writes the figures of the
evaluation into its header, draws the sheet of results and updates the README's tables.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from readme_tables import update_readmes

import pconv
from pconv.inpainting import SHIPPED, read_metadata
from pconv.metrics import classical, damaged
from pconv.photos import center_crop

DATA = Path(__file__).parents[1] / "data"
SHORT_NAMES = {"immunohistochemistry": "tissue", "hubble_deep_field": "Hubble"}
LICENCE = (
    "BSD-3-Clause, as the project. Trained on photos of ImageNet, BSDS500 and others, which are "
    "for research and education and not part of the project."
)


def pack(path: str) -> None:
    model, training = pconv.load_weights(path), read_metadata(path)["training"]
    pconv.save_weights(model, DATA / SHIPPED, torch.float16, training=training, licence=LICENCE)
    packed = pconv.load_pretrained()
    assert all(torch.isfinite(value).all() for value in packed.state_dict().values())
    photos = pconv.bundled_photos(held_out=True)
    holes = {
        name: pconv.random_holes(*photo.shape[:2], rng=np.random.default_rng(0))
        for name, photo in photos.items()
    }
    change = 0
    for name, photo in photos.items():
        before, after = (pconv.inpaint(one, photo, holes[name]) for one in (model, packed))
        change = max(change, np.abs(before - after.astype(int)).max())
    size = (DATA / SHIPPED).stat().st_size / 2**20
    print(f"{DATA / SHIPPED}: {size:.1f} MB")
    print(f"half precision moves a pixel by {change} of 255 at most")


def finish() -> None:
    record = json.loads((DATA / "results" / "evaluate_kodak.json").read_text())
    columns = ("method", "low", "high", "holes", "photos", "l1", "psnr", "ssim", "lpips")
    figures = [
        {name: row[name] for name in columns} for row in record["rows"] if row["method"] == "pconv"
    ]
    metadata = {"training": read_metadata(DATA / SHIPPED)["training"], "licence": LICENCE}
    metadata |= {"date": record["date"], "figures": json.dumps(figures)}
    pconv.save_weights(pconv.load_pretrained(), DATA / SHIPPED, torch.float16, **metadata)
    draw_sheet(DATA / "shipped_weights.jpg")
    update_readmes()


def draw_sheet(path: Path, columns: int = 8) -> None:
    """Draws 24 results on the bundled photos, none of which was trained on, and none left out.

    Above what is damaged, then the best method without training, then the shipped weights.
    """
    model, fsr = pconv.load_pretrained(), classical()["fsr-fast"]
    photos = pconv.bundled_photos() | pconv.bundled_photos(held_out=True)
    results = []
    for index, (name, photo) in enumerate(photos.items()):
        for turn, ratio in enumerate([(0.1, 0.3), (0.3, 0.6)]):
            photo = center_crop(photo, 256)
            holes = pconv.random_holes(256, 256, ratio, np.random.default_rng((index, turn)))
            fills = [damaged(photo, holes), fsr(photo, holes), pconv.inpaint(model, photo, holes)]
            results.append((SHORT_NAMES.get(name, name.replace("_", " ")), fills))
    groups = -(-len(results) // columns)
    figure = plt.figure(figsize=(1.5 * columns, 4.7 * groups), layout="constrained")
    axes = figure.subplots(3 * groups, columns)
    for axis in axes.ravel():
        axis.set_axis_off()
    for index, (name, fills) in enumerate(results):
        group, column = divmod(index, columns)
        for axis, picture in zip(axes[3 * group : 3 * group + 3, column], fills):
            axis.imshow(picture)
        axes[3 * group, column].set_title(name, fontsize=9)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    {"pack": pack, "finish": finish}[sys.argv[1]](*sys.argv[2:])
