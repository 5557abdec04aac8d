"""L1, PSNR, SSIM and LPIPS, of a whole photo and in its holes, by hole-ratio bucket."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import inpaint_biharmonic
from torch import nn
from tqdm.auto import tqdm

from pconv.holes import BUCKETS, random_holes
from pconv.inpainting import inpaint

# (photo, holes) -> restored photo; both photos uint8 (H, W, 3), holes bool (H, W)
Restorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
# (photo, other) -> distance, such as `pconv.lpips.LPIPS`
Distance = Callable[[np.ndarray, np.ndarray], float]
MOST_PSNR = 100.0  # dB, of one photo in a mean
ON_REQUEST = ("fsr-best",)  # a classical method that takes half a minute per photo of 256x256


def compare(
    restored: np.ndarray, photo: np.ndarray, holes: np.ndarray, lpips: Distance | None = None
) -> dict[str, float]:
    """How close a restored photo is to the real one.

    SSIM is scikit-image's with its default 7x7 window; in the holes, its map averaged over them.
    PSNR and SSIM reward a smooth fill; LPIPS asks whether the fill looks like the photo.

    Args:
        restored, photo: uint8 (H, W, 3).
        holes: bool (H, W), True = hole.
        lpips: what measures LPIPS, such as `pconv.lpips.LPIPS`.

    Returns:
        `l1` (mean absolute difference, 0 to 1), `psnr` (dB), `ssim` and, if there is what measures
        it, `lpips` of the whole photo; `psnr_holes` and `ssim_holes` of the hole pixels. NaN: the
        SSIM of a photo smaller than the window, and what is in the holes of a photo without any.
        The PSNR of equal photos is infinite.

    Raises:
        TypeError: for photos that are not uint8 and holes that are not bool.
        ValueError: for shapes that do not fit.
    """
    for name, array in (("restored", restored), ("photo", photo)):
        if array.dtype != np.uint8:
            raise TypeError(f"{name} is {array.dtype}; expected uint8, 0 to 255")
    if holes.dtype != bool:
        raise TypeError(f"holes are {holes.dtype}; expected bool, True = hole: holes > 0")
    if restored.shape != photo.shape or holes.shape != photo.shape[:2]:
        shapes = f"restored {restored.shape}, photo {photo.shape} and holes {holes.shape}"
        raise ValueError(f"{shapes} do not fit")
    difference = np.abs(restored.astype(np.float64) - photo)
    ssim, ssim_holes, psnr_holes = np.nan, np.nan, np.nan
    if min(holes.shape) >= 7:
        ssim, similarity = structural_similarity(
            photo, restored, channel_axis=-1, data_range=255, full=True
        )
        if holes.any():
            ssim_holes = similarity[holes].mean()
    with np.errstate(divide="ignore"):
        psnr = peak_signal_noise_ratio(photo, restored, data_range=255)
        if holes.any():
            psnr_holes = 10 * np.log10(255**2 / (difference[holes] ** 2).mean())
    values = {
        "l1": float(difference.mean() / 255),
        "psnr": float(psnr),
        "ssim": float(ssim),
        "psnr_holes": float(psnr_holes),
        "ssim_holes": float(ssim_holes),
    }
    return values if lpips is None else values | {"lpips": lpips(restored, photo)}


def damaged(photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """The photo with its holes white: where every comparison starts."""
    return np.where(holes[:, :, None], np.uint8(255), photo)


def biharmonic(photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """scikit-image's biharmonic equation."""
    # A copy of zeros and ones: it writes to the mask, and Pillow's own bool images hold 255.
    filled = inpaint_biharmonic(photo, holes.astype(np.uint8) > 0, channel_axis=-1)
    filled = np.rint(filled * 255).clip(0, 255).astype(np.uint8)
    return np.where(holes[:, :, None], filled, photo)


def classical(on_request: bool = False) -> dict[str, Restorer]:
    """Methods without training, by name.

    `biharmonic` comes with scikit-image. With OpenCV also `telea` (fast marching, Telea 2004) and
    `navier-stokes` (Bertalmio et al. 2001), each with a radius of 5 pixels. With OpenCV's contrib
    modules also `fsr-fast`, frequency selective reconstruction (Genser et al. 2018), the best of
    them; on_request adds `fsr-best`, which takes half a minute per photo of 256x256 pixels.
    """
    methods = {"biharmonic": biharmonic}
    if not find_spec("cv2"):
        return methods
    import cv2

    for name, flag in (("telea", cv2.INPAINT_TELEA), ("navier-stokes", cv2.INPAINT_NS)):
        methods[name] = lambda photo, holes, flag=flag: cv2.inpaint(
            photo, holes.astype(np.uint8), 5, flag
        )
    if hasattr(cv2, "xphoto"):
        methods["fsr-fast"] = partial(_fsr, cv2.xphoto.INPAINT_FSR_FAST)
        if on_request:
            methods["fsr-best"] = partial(_fsr, cv2.xphoto.INPAINT_FSR_BEST)
    return methods


def _fsr(flag: int, photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
    import cv2

    bgr = np.ascontiguousarray(photo[:, :, ::-1])
    known = np.where(holes, np.uint8(0), np.uint8(255))
    filled = np.empty_like(bgr)
    cv2.xphoto.inpaint(bgr, known, filled, flag)
    # It smooths what is known, too.
    return np.where(holes[:, :, None], filled[:, :, ::-1], photo)


def evaluate(
    model: nn.Module | Restorer,
    photos: Sequence[np.ndarray] | dict[str, np.ndarray],
    seed: int = 0,
    progress: tqdm | None = None,
    lpips: Distance | None = None,
) -> list[dict]:
    """Means over all photos, by bucket of hole ratio, with holes inside or at the border.

    Args:
        model: a PConvUNet, or any function (photo, holes) -> restored photo. It is called from as
            many threads as torch uses.
        photos: uint8 (H, W, 3) each, a list or by name.
        seed: of the holes.
        progress: a progress bar, advanced by one per photo.
        lpips: as in `compare`.

    Returns:
        Rows with `low` and `high` (the bucket), `holes` ("interior" or "border"), `photos` (how
        many) and the means of `compare`, as `average` takes them. `lpips` is None where it is not
        measured.
    """
    photos = list(photos.values()) if isinstance(photos, dict) else photos
    restore = partial(inpaint, model) if isinstance(model, nn.Module) else model

    def measure(case: tuple[int, bool, int]) -> dict[str, float]:
        bucket, border, index = case
        photo = photos[index]
        rng = np.random.default_rng((seed, *case))
        holes = random_holes(*photo.shape[:2], BUCKETS[bucket], rng, border)
        return compare(restore(photo, holes), photo, holes, lpips)

    cases = list(product(range(len(BUCKETS)), (False, True), range(len(photos))))
    values = []
    with _eval_mode(model):
        for value in _map_in_threads(measure, cases):
            values.append(value)
            if progress is not None:
                progress.update()
    rows = []
    for start in range(0, len(values), len(photos)):
        bucket, border, _ = cases[start]
        low, high = BUCKETS[bucket]
        row = {"low": low, "high": high, "holes": "border" if border else "interior"}
        means = average(values[start : start + len(photos)])
        rows.append(row | {"photos": len(photos), "lpips": None} | means)
    return rows


def average(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """The means of what `compare` returned for several photos.

    A perfect fill, such as that of a blank wall, has an infinite PSNR, and so would have the mean:
    each counts as 100 dB at most, which is one level off in one channel of one of 226x226 pixels.
    """
    means = {}
    for name in values[0]:
        column = np.array([value[name] for value in values])
        if name.startswith("psnr"):
            column = np.minimum(column, MOST_PSNR)  # NaN stays
        means[name] = float(column.mean())
    return means


@contextmanager
def _eval_mode(model: nn.Module | Restorer) -> Iterator[None]:
    if not isinstance(model, nn.Module):
        yield
        return
    training = model.training
    model.eval()  # once, before the threads
    try:
        yield
    finally:
        model.train(training)


def _map_in_threads(function: Callable, cases: list) -> Iterator:
    """The results in order. One photo per core, each on one thread: two thirds of the time."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, cases)
    finally:
        torch.set_num_threads(threads)
