"""Training batches: random crops of photos, with holes that are drawn, not downloaded."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pconv.holes import HOLE_KINDS
from pconv.photos import as_photo
from pconv.signals import ignore_sigint


class UnreadablePhotosError(ValueError):
    """So many photos in a row could not be read that the folder must have gone."""


class TrainingBatches:
    """Endless batches of images and masks, the same for the same seed.

    Images are float32 (N, 3, size, size) in [0, 1], masks bool (N, 1, size, size), True = valid.
    Each sample is a random crop of a random photo, shrunk by a random factor first if the photo is
    larger than the crop, mirrored at random, with random holes. Images travel as bytes and are
    divided by 255 on the device.

    `position` is the number of batches so far; set it to go on from there. What cannot be read is
    skipped and listed in `unreadable`, by its index in `photos`.

    Args:
        photos: anything with a length whose items are photos (see `as_photo`) or tuples that begin
            with one, such as torchvision's ImageFolder.
        size: of a crop, in pixels per side.
        batch_size: photos per batch.
        seed: of crops and holes.
        ratio: (lo, hi); the hole ratio is in (lo, hi].
        holes: "irregular", as `random_holes` draws them, or "mixed", as `mixed_holes` does.
        rank, world_size: of several processes that train together, each on its part of every batch.
        workers: how many processes make batches ahead; with 0 each is made when it is asked for.
        device: where the batches go.

    Raises:
        ValueError: for a batch that the processes cannot share equally, and for unknown holes.
    """

    def __init__(
        self,
        photos: Sequence,
        size: int,
        batch_size: int,
        *,
        seed: int,
        ratio: tuple[float, float] = (0.01, 0.6),
        holes: str = "irregular",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        device: str | torch.device = "cpu",
    ):
        check_shares(batch_size, world_size)
        if holes not in HOLE_KINDS:
            raise ValueError(f"holes {holes!r}: expected one of {', '.join(HOLE_KINDS)}")
        self.photos = photos
        self.size = size
        self.seed = seed
        self.ratio = ratio
        self.holes = holes
        self.workers = workers
        self.device = torch.device(device)
        self.position = 0
        self.unreadable = {}
        self._samples = range(rank, batch_size, world_size)
        self._loader = None  # the workers' batches
        self._loader_position = -1  # of the batch that comes next from them

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        images, masks, unreadable = self._load_next() if self.workers else self[self.position]
        self.unreadable |= unreadable
        self.position += 1
        images = images.to(self.device, non_blocking=True)
        return images.float().div_(255), masks.to(self.device, non_blocking=True)

    def _load_next(self) -> tuple[Tensor, Tensor, dict[int, str]]:
        if self._loader_position != self.position:
            self._loader = None  # workers of another position end
            loader = DataLoader(
                self,
                batch_size=None,
                sampler=range(self.position, sys.maxsize),
                num_workers=self.workers,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=ignore_sigint,
                generator=torch.Generator(),
            )
            self._loader = iter(loader)
        self._loader_position = self.position + 1
        return next(self._loader)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, dict[int, str]]:
        """The batch of that position: images, uint8 (N, 3, size, size), and masks.

        The third is why photos drawn for it could not be read, by their index.
        """
        crops, masks, unreadable = [], [], {}
        for sample in self._samples:
            rng = np.random.default_rng((self.seed, position, sample))
            crops.append(_random_crop(self._draw_photo(rng, unreadable), self.size, rng))
            masks.append(~HOLE_KINDS[self.holes](self.size, self.size, self.ratio, rng))
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # (N, 3, H, W)
        return images, torch.from_numpy(np.stack(masks)[:, None]), unreadable

    def _draw_photo(self, rng: np.random.Generator, unreadable: dict[int, str]) -> np.ndarray:
        for _ in range(100):
            index = int(rng.integers(len(self.photos)))
            try:
                item = self.photos[index]
                return as_photo(item[0] if isinstance(item, tuple) else item)
            except (ValueError, OSError) as error:  # it may have vanished meanwhile
                unreadable[index] = str(error)
        raise UnreadablePhotosError(
            f"100 photos in a row could not be read; the last: {unreadable[index]}"
        )


def check_shares(batch_size: int, world_size: int) -> None:
    """Raises ValueError for a batch that so many processes cannot share equally."""
    if batch_size % world_size:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared equally by {world_size} processes"
        )


def _random_crop(photo: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width = photo.shape[:2]
    largest = min(height, width)
    side = largest  # a larger crop is cut first, then shrunk to size
    if largest > size:
        side = rng.integers(size, largest, endpoint=True)
    top = rng.integers(height - side, endpoint=True)
    left = rng.integers(width - side, endpoint=True)
    crop = photo[top : top + side, left : left + side]
    if side != size:
        picture = Image.fromarray(crop)
        resized = picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
        crop = np.asarray(resized)
    return crop[:, ::-1] if rng.random() < 0.5 else crop
