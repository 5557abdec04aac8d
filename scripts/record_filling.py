"""Records holes that are filled by gradient descent on their pixels, under one loss after another.

python scripts/record_filling.py --vgg vgg19.safetensors --json data/results/filling_cpu.json

The experiment is that of notebook 05 (`course.filling`), with the features of a trained VGG beside
the fixed random filters. `--vgg` is a file of VGG19 that reaches conv3_1 at least. The fills of the
trained one are written to `--image`, a row of gray squares per scene, a square per loss; the first
scene is also the title picture of the notebook. A record says which file it was by name, not where
it lay. The file of the committed record is VGG19 scaled so that its activations are about 1 on
average (Gatys et al., CVPR 2016, Section 2).

The first scene is filled a second time with three times the steps.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from tqdm.auto import tqdm

import pconv
from pconv.benchmark import provenance
from pconv.devices import resolve_device
from pconv.files import write_json

matplotlib.use("agg")
sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course import filling, plots

IMAGES = Path(__file__).parents[1] / "notebooks" / "images"
SCENES = (("gravel", 0), ("brick", 0), ("grass", 0), ("gravel", 1))  # texture, seed
LAYERS = ("relu1_2", "relu2_2", "relu3_1")


def fill_scenes(vgg: pconv.VGGFeatures, steps: int, device: torch.device) -> dict:
    """{(texture, seed, steps): (its ExpectedLoss, {loss: fill, in steps of 1/255})}."""
    scenes = [(*SCENES[0], 3 * steps), *((*scene, steps) for scene in SCENES)]
    filled = {}
    for texture, seed, count in tqdm(scenes, desc=Path(vgg.weights).stem):
        expected = filling.ExpectedLoss(vgg, filling.make_scene(texture, seed=seed, device=device))
        fills = filling.fill_holes(expected, filling.RECORDED, count)
        rounded = {name: (255 * fill).round() / 255 for name, fill in fills.items()}
        filled[texture, seed, count] = expected, rounded
    return filled


def write_image(path: Path, filled: dict) -> None:
    """A row of gray squares per scene, a square per loss."""
    rows = [torch.cat([f[0, 0] for f in fills.values()], 1) for _, fills in filled.values()]
    pixels = (255 * torch.cat(rows)).round().byte().cpu().numpy()
    Image.fromarray(pixels).save(path, optimize=True)


def write_title(path: Path, filled: dict) -> None:
    """The first scene: its hole, and the hole filled under each of the notebook's three losses."""
    expected, fills = next(iter(filled.values()))
    photo, mask, _ = expected.scene
    panels = [("the hole", plots.damaged(photo, mask))]
    panels += [(name, plots.picture(fills[name])) for name in filling.LOSSES]
    figure = plots.pictures(panels, width=2.4)[0].figure
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vgg", type=Path, required=True, help="VGG19, .safetensors or .pth")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--image", type=Path, default=IMAGES / "05_fills.png")
    parser.add_argument("--title", type=Path, default=IMAGES / "05_three_losses.jpg")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(1)
    networks = {
        options.vgg.stem: pconv.VGGFeatures(options.vgg, "vgg19", LAYERS).to(device),
        "random": pconv.VGGFeatures("random").to(device),
    }
    rows = []
    for name, vgg in networks.items():
        filled = fill_scenes(vgg, options.steps, device)
        if name != "random":
            write_image(options.image, filled)
            write_title(options.title, filled)
        for (texture, seed, steps), (expected, fills) in filled.items():
            scene = {"vgg": name, "texture": texture, "seed": seed, "steps": steps}
            rows += [
                {**scene, "loss": loss} | filling.measure(expected, fill)
                for loss, fill in fills.items()
            ]
    settings = {
        "scenes": list(filled),
        "losses": list(filling.RECORDED),
        "contents": len(expected.scene.contents),
        "layers": {name: vgg.layers for name, vgg in networks.items()},
    }
    seeds = sorted({seed for _, seed in SCENES})
    origin = provenance(device, seeds, **settings)
    origin["command"] = origin["command"].replace(str(options.vgg), options.vgg.name)
    write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
