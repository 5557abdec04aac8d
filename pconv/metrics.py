"""L1, PSNR and SSIM, of a whole photo and in its holes, by hole-ratio bucket."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
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
        filled = inpaint_biharmonic(photo, holes, channel_axis=-1)
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
    restore = (lambda photo, holes: inpaint(model, photo, holes)) if isinstance(model, nn.Module) else model
    photos = list(photos.values()) if isinstance(photos, dict) else photos
    rows = []
    for bucket, (low, high) in enumerate(BUCKETS):
        for border in (False, True):
            found = []
            for index, photo in enumerate(photos):
                rng = np.random.default_rng((seed, bucket, border, index))
                holes = random_holes(*photo.shape[:2], (low, high), rng, border)
                found.append(compare(restore(photo, holes), photo, holes))
                if bar is not None:
                    bar.update()
            means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
            rows.append(
                {"low": low, "high": high, "holes": ("interior", "border")[border], "photos": len(found), **means}
            )
    return rows
