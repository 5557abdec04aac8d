"""L1, PSNR and SSIM, of a whole photo and in its holes, by hole-ratio bucket."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import inpaint_biharmonic
from torch import nn
from tqdm.auto import tqdm

from pconv.data import BUCKETS, random_holes
from pconv.inpainting import inpaint

Restorer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (photo, holes) -> restored photo, both uint8 (H, W, 3)


def compare(restored: np.ndarray, photo: np.ndarray, holes: np.ndarray) -> dict[str, float]:
    """How close a restored photo is to the real one.

    restored, photo: uint8 (H, W, 3); holes: bool (H, W). Returns `l1` (mean absolute difference, 0 to 1), `psnr` (dB)
    and `ssim` of the whole photo, and `psnr_holes` and `ssim_holes` over the hole pixels. SSIM is scikit-image's with
    its default 7x7 window; in the holes, its map averaged over them. A photo smaller than the window has no SSIM and
    one without holes no value in the holes (NaN); the PSNR of equal photos is infinite. Raises ValueError for shapes
    that do not fit.
    """
    if restored.shape != photo.shape or holes.shape != photo.shape[:2]:
        raise ValueError(f"restored {restored.shape}, photo {photo.shape} and holes {holes.shape} do not fit")
    difference = np.abs(restored.astype(np.float64) - photo)
    ssim, ssim_holes, psnr_holes = np.nan, np.nan, np.nan
    if min(holes.shape) >= 7:
        ssim, similarity = structural_similarity(photo, restored, channel_axis=-1, data_range=255, full=True)
        if holes.any():
            ssim_holes = similarity[holes].mean()
    with np.errstate(divide="ignore"):
        psnr = peak_signal_noise_ratio(photo, restored, data_range=255)
        if holes.any():
            psnr_holes = 10 * np.log10(255**2 / (difference[holes] ** 2).mean())
    return {
        "l1": float(difference.mean() / 255),
        "psnr": float(psnr),
        "ssim": float(ssim),
        "psnr_holes": float(psnr_holes),
        "ssim_holes": float(ssim_holes),
    }


def damaged(photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """The photo with its holes white: where every comparison starts."""
    return np.where(holes[:, :, None], np.uint8(255), photo)


def classical() -> dict[str, Restorer]:
    """Methods without training, to compare with, by name.

    `biharmonic`: scikit-image's; where OpenCV is installed also `telea` (fast marching, Telea 2004) and
    `navier-stokes` (Bertalmio et al. 2001), each with a radius of 5 pixels.
    """

    def biharmonic(photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
        # a copy of zeros and ones: it writes to the mask, and Pillow's own bool images hold 255
        filled = inpaint_biharmonic(photo, holes.astype(np.uint8) > 0, channel_axis=-1)
        return np.where(holes[:, :, None], np.rint(filled * 255).clip(0, 255).astype(np.uint8), photo)

    methods = {"biharmonic": biharmonic}
    if find_spec("cv2"):
        import cv2

        flags = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}
        for name, flag in flags.items():
            methods[name] = lambda photo, holes, flag=flag: cv2.inpaint(photo, holes.astype(np.uint8), 5, flag)
    return methods


def evaluate(
    model: nn.Module | Restorer,
    photos: Sequence[np.ndarray] | dict[str, np.ndarray],
    seed: int = 0,
    bar: tqdm | None = None,
) -> list[dict]:
    """Means over all photos in every bucket of hole ratio, with holes inside the photo and holes that touch its border.

    model: a PConvUNet, or any function of (photo, holes) that returns the restored photo. photos: uint8 (H, W, 3), a
    list or by name. The same seed draws the same holes. bar: a progress bar, moved on by one a photo.

    Returns rows with `low` and `high` (the bucket), `holes` ("interior" or "border"), `photos` (how many) and the means
    of `compare`.
    """
    photos = list(photos.values()) if isinstance(photos, dict) else photos
    restore = partial(inpaint, model) if isinstance(model, nn.Module) else model

    def measured(case: tuple) -> dict[str, float]:
        bucket, border, index = case
        rng = np.random.default_rng((seed, *case))
        holes = random_holes(*photos[index].shape[:2], BUCKETS[bucket], rng, border)
        return compare(restore(photos[index], holes), photos[index], holes)

    cases = list(product(range(len(BUCKETS)), (False, True), range(len(photos))))
    found = []
    for values in _in_parallel(model, measured, cases) if isinstance(model, nn.Module) else map(measured, cases):
        found.append(values)
        if bar is not None:
            bar.update()
    rows = []
    for start in range(0, len(found), len(photos)):
        (bucket, border, _), part = cases[start], found[start : start + len(photos)]
        names = {"low": BUCKETS[bucket][0], "high": BUCKETS[bucket][1], "holes": ("interior", "border")[border]}
        means = {name: float(np.mean([values[name] for values in part])) for name in part[0]}
        rows.append({**names, "photos": len(part), **means})
    return rows


def _in_parallel(model: nn.Module, function: Callable, cases: list) -> Iterator:
    """The results in order; a photo a core, each on one thread, which takes two thirds of the time of one by one."""
    threads, training = torch.get_num_threads(), model.training
    model.eval()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, cases)
    finally:
        torch.set_num_threads(threads)
        model.train(training)
