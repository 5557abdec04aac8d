"""Photos in, training batches out: bundled photos, folders of photos, and hole masks that are drawn, not downloaded."""

import math
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from skimage import data as skimage_data
from torch import Tensor
from torch.utils.data import DataLoader

BUCKETS = tuple((low / 100, high / 100) for low, high in ((1, 10), (10, 20), (20, 30), (30, 40), (40, 50), (50, 60)))

# Photos that scikit-image bundles. The left and the right view of the motorcycle are one scene, so both are trained on.
_TRAINED_ON = (
    "chelsea",
    "rocket",
    "immunohistochemistry",
    "retina",
    "hubble_deep_field",
    "grass",
    "gravel",
    "brick",
    "motorcycle",
)
_HELD_OUT = ("astronaut", "coffee")


def bundled_photos(held_out: bool = False) -> dict[str, np.ndarray]:
    """scikit-image's bundled photos by name, uint8 (H, W, 3): those to train on, or the two held out for measuring."""
    photos = {}
    for name in _HELD_OUT if held_out else _TRAINED_ON:
        if name == "motorcycle":
            photos["motorcycle_left"], photos["motorcycle_right"], _ = skimage_data.stereo_motorcycle()
        else:
            photos[name] = getattr(skimage_data, name)()
    return {name: as_photo(photo) for name, photo in photos.items()}


def as_photo(photo: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """Any photo as uint8 (H, W, 3), turned as its EXIF orientation says; transparent pixels keep their colour.

    photo: a uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) array, a Pillow image, or a path. Raises FileNotFoundError
    for a path that is not there, ValueError for a file that is not a readable photo or an array of another shape,
    TypeError for an array that is not uint8.
    """
    if isinstance(photo, str | Path):
        path = Path(photo)
        if not path.is_file():
            raise FileNotFoundError(f"no photo at {path}")
        try:
            with Image.open(path) as image:
                return as_photo(image)
        except Exception as error:  # Pillow's decoders raise anything at a damaged file: RuntimeError, IndexError, …
            raise ValueError(f"{path} is not a readable photo: {error}") from error
    if isinstance(photo, Image.Image):
        image = ImageOps.exif_transpose(photo)
        if image.mode.startswith(("I", "F")):  # 16-bit and float greys: Pillow would clip them to 255, not scale
            levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
            top = 65535 if image.mode[0] == "I" else 1 if levels.max() <= 1 else 255
            image = Image.fromarray((levels.clip(0) / top * 255).round().clip(0, 255).astype(np.uint8))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))
    photo = np.asarray(photo)
    if photo.dtype != np.uint8:
        raise TypeError(f"the photo is an array of {photo.dtype}; expected uint8: (255 * photo).astype('uint8')")
    if photo.ndim == 2:
        photo = photo[:, :, None]
    if photo.ndim != 3 or photo.shape[2] not in (1, 3, 4) or 0 in photo.shape:
        raise ValueError(f"the photo has shape {photo.shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    return np.ascontiguousarray(np.broadcast_to(photo[:, :, :3], (*photo.shape[:2], 3)))


def photo_files(folder: str | Path) -> list[Path]:
    """The files of a folder and its subfolders whose ending is a photo format's, sorted.

    Raises FileNotFoundError where there is no such folder, ValueError where it holds no photo.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the folder your photos are in")
    endings = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise ValueError(f"no photos in {folder}: it holds no file that ends in .jpg, .png or another photo format")
    return files


class PhotoFolder(Sequence):
    """The photos of a folder and its subfolders, read when asked for: `folder[i]` is uint8 (H, W, 3).

    `names` are their paths inside the folder, `unreadable` those of files that look like photos and are none. Raises as
    `photo_files`, and ValueError where no file is readable or, if `strict`, where one is not.
    """

    def __init__(self, folder: str | Path, strict: bool = False):
        self.folder, self.names, self.unreadable = Path(folder), [], []
        for path in photo_files(folder):
            (self.names if _is_photo(path) else self.unreadable).append(str(path.relative_to(folder)))
        if not self.names or (strict and self.unreadable):
            raise ValueError(f"{self.folder / self.unreadable[0]} is not a readable photo, whatever its name says")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return as_photo(self.folder / self.names[index])


def _is_photo(path: Path) -> bool:
    """Whether Pillow recognises the file; reads its header only."""
    try:
        with Image.open(path):
            return True
    except Exception:
        return False


def to_tensor(photo: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1]; the memory stays channels last."""
    return torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)[None]


def centre_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The middle of a photo, scaled so that its shorter side is `size`: uint8 (size, size, 3)."""
    return np.asarray(ImageOps.fit(Image.fromarray(photo), (size, size), Image.Resampling.LANCZOS))


class TrainingBatches:
    """Endless (image (N, 3, size, size) in [0, 1], mask (N, 1, size, size)) float32 pairs; the same for the same seed.

    Each sample is a random crop of a random photo, shrunk by a random factor first where the photo is larger than the
    crop, mirrored at random, with generated holes whose ratio is uniform in (lo, hi]. photos: anything with a length
    whose items are photos (see `as_photo`) or pairs that begin with one, such as torchvision's ImageFolder.
    `position`: how many batches have been given; set it to go on from there. share: (rank, number of ranks) where
    several processes train together, each on its part of every batch. workers: how many processes make batches ahead;
    with 0 each is made when it is asked for. What cannot be read is skipped and kept in `unreadable`.
    """

    def __init__(
        self,
        photos: Sequence,
        size: int,
        batch: int,
        seed: int,
        ratio: tuple[float, float] = (0.01, 0.6),
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
    ):
        if batch % share[1]:
            raise ValueError(f"a batch of {batch} cannot be shared equally by {share[1]} processes")
        self.photos, self.size, self.seed, self.ratio, self.workers = photos, size, seed, ratio, workers
        self._samples = range(share[0], batch, share[1])
        self.position, self.unreadable = 0, {}
        self._ahead, self._next = None, -1  # what the workers make, and the position of the batch that is next there

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.workers and self._next != self.position:
            self._ahead = None  # workers of another position end
            loader = DataLoader(
                self, batch_size=None, sampler=range(self.position, sys.maxsize), num_workers=self.workers,
                pin_memory=torch.cuda.is_available(), worker_init_fn=_left_alone, generator=torch.Generator(),
            )  # fmt: skip
            self._ahead = iter(loader)
        images, mask, unreadable = next(self._ahead) if self.workers else self[self.position]
        self.unreadable |= unreadable
        self.position += 1
        self._next = self.position
        return images, mask

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, dict[int, str]]:
        """The batch of that position, and why photos drawn for it could not be read, by index."""
        images, masks, unreadable = [], [], {}
        for sample in self._samples:
            rng = np.random.default_rng((self.seed, position, sample))
            images.append(to_tensor(_random_crop(self._photo(rng, unreadable), self.size, rng)))
            masks.append(~random_holes(self.size, self.size, self.ratio, rng))
        mask = torch.from_numpy(np.stack(masks)[:, None]).float()
        return torch.cat(images).contiguous(memory_format=torch.channels_last), mask, unreadable

    def _photo(self, rng: np.random.Generator, unreadable: dict[int, str]) -> np.ndarray:
        for _ in range(100):
            index = int(rng.integers(len(self.photos)))
            try:
                item = self.photos[index]
                return as_photo(item[0] if isinstance(item, tuple) else item)
            except ValueError as error:
                unreadable[index] = str(error)
        raise ValueError(f"100 photos in a row could not be read; the last: {unreadable[index]}")


def _left_alone(worker: int) -> None:
    """Ctrl-C reaches every process; the one that trains saves first, and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _random_crop(photo: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width = photo.shape[:2]
    largest = min(height, width)
    side = largest if largest <= size else rng.integers(size, largest, endpoint=True)  # cut larger, shrink to size
    top, left = rng.integers(height - side, endpoint=True), rng.integers(width - side, endpoint=True)
    crop = photo[top : top + side, left : left + side]
    if side != size:
        crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def random_holes(
    height: int,
    width: int,
    ratio: tuple[float, float] = (0.01, 0.6),
    rng: np.random.Generator | None = None,
    border: bool | None = None,
) -> np.ndarray:
    """Irregular holes, strokes and blobs: bool (height, width), True = hole, hole ratio uniform in (lo, hi].

    border: True: the holes touch the border; False: they keep a margin to it; None: as it falls. Drawn in the manner of
    the masks of arXiv 1804.07723, Section 4.1. Raises ValueError where no whole number of pixels lies in the range.
    """
    if rng is None:
        rng = np.random.default_rng()
    low, high = ratio
    if not 0 <= low < high <= 1:
        raise ValueError(f"ratio=({low}, {high}): expected 0 <= lo < hi <= 1")
    pixels = height * width
    # The tolerance is for bounds such as 0.1 that binary fractions miss: 0.1 of 10 pixels is one pixel.
    fewest, most = math.floor(low * pixels + 1e-9) + 1, math.floor(high * pixels + 1e-9)
    margin = 0
    if border is False:  # a margin of a twentieth, or what the ratio leaves of it, and at least one pixel
        margin = next(
            (
                m
                for m in range(max(1, min(height, width) // 20), 0, -1)
                if (height - 2 * m) * (width - 2 * m) >= 1.2 * most
            ),
            1,
        )
        most = min(most, max(0, height - 2 * margin) * max(0, width - 2 * margin))
    if fewest > most:
        raise ValueError(
            f"no hole of a ratio in ({low}, {high}] in {height}x{width} pixels"
            + (" that keeps off the border" if margin else "")
            + ": widen the range or enlarge the mask"
        )
    wanted = int(rng.integers(fewest, most, endpoint=True))
    canvas = Image.new("L", (width - 2 * margin, height - 2 * margin))
    have = 0
    while have < wanted:
        before = canvas.copy()
        start = _draw_stroke(canvas, wanted - have, border is True and have == 0, rng)
        have = np.count_nonzero(np.asarray(canvas))
    holes = np.zeros((height, width), dtype=bool)
    inner = holes[margin : height - margin, margin : width - margin]
    inner[:] = np.asarray(canvas)
    if have > wanted:  # the last stroke is cut where it has drawn enough, counted from its start
        rows, columns = np.nonzero(inner & (np.asarray(before) == 0))
        distance = (rows - start[1]) ** 2 + (columns - start[0]) ** 2
        excess = np.argpartition(distance, len(rows) - (have - wanted))[len(rows) - (have - wanted) :]
        inner[rows[excess], columns[excess]] = False
    return holes


def _draw_stroke(canvas: Image.Image, missing: int, at_border: bool, rng) -> tuple[int, int]:
    """Draws one stroke of a brush or one blob; returns the (column, row) it starts from, a pixel it has drawn."""
    width, height = canvas.size
    column, row = int(rng.integers(width)), int(rng.integers(height))
    if at_border:
        column, row = ((column, 0), (column, height - 1), (0, row), (width - 1, row))[rng.integers(4)]
    draw = ImageDraw.Draw(canvas)
    extent = math.sqrt(height * width)
    largest = math.sqrt(missing)  # wide strokes while much is missing, fine ones towards the end
    brush = max(1.0, min((0.6 * extent + 1.8 * largest) * rng.uniform(0.02, 0.12), largest))
    if rng.random() < 0.25:
        a, b = brush * rng.uniform(0.7, 2.0, 2)
        draw.ellipse((column - a, row - b, column + a, row + b), fill=255)
    else:
        corners = rng.integers(2, 9)
        angles = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.7, corners).cumsum()
        lengths = extent * rng.uniform(0.03, 0.2, corners)
        steps = np.stack((lengths * np.cos(angles), lengths * np.sin(angles)), 1).cumsum(0)
        points = [(column, row), *((column + x, row + y) for x, y in steps.tolist())]
        draw.line(points, fill=255, width=round(brush))
        radius = brush / 2
        for x, y in points:  # round ends and corners
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    draw.point((column, row), fill=255)
    return column, row
