"""Training batches repeat with the seed, go on from any position, and are shared by processes."""

from itertools import islice

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pconv import bundled_photos
from pconv.data import TrainingBatches
from pconv.photos import PhotoFolder, to_tensor

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_batches_repeat_with_the_seed():
    photos = [PHOTO, PHOTO[:9, :9]]
    first, again, other = (
        [*islice(TrainingBatches(photos, 8, 3, seed=seed), 3)] for seed in (7, 7, 8)
    )
    for (image, mask), (same_image, same_mask), (other_image, other_mask) in zip(
        first, again, other, strict=True
    ):
        assert torch.equal(image, same_image) and torch.equal(mask, same_mask)
        assert not torch.equal(image, other_image) and not torch.equal(mask, other_mask)
    assert not torch.equal(first[0][0], first[1][0]) and not torch.equal(first[0][1], first[1][1])


@pytest.mark.parametrize("size", [8, 12, 16, 40])
def test_batches_are_images_and_masks_of_the_size_asked_for(size):
    """Also where the photos are smaller than the crop."""
    for image, mask in islice(TrainingBatches([PHOTO], size, 4, seed=0, ratio=(0.2, 0.4)), 3):
        assert image.shape == (4, 3, size, size) and mask.shape == (4, 1, size, size)
        assert image.dtype == torch.float32 and mask.dtype == torch.bool
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= image.min() < image.max() <= 1
        assert ((mask == 0) | (mask == 1)).all()
        ratios = (mask == 0).double().mean((1, 2, 3))
        assert ((ratios > 0.2) & (ratios <= 0.4)).all()


def test_a_photo_of_the_crops_size_comes_as_it_is_or_mirrored():
    photo = PHOTO[:, :12]
    expected = to_tensor(photo)[0]
    mirrored = 0
    for image, _ in islice(TrainingBatches([photo], 12, 8, seed=0), 5):
        for sample in image:
            assert torch.equal(sample, expected) or torch.equal(sample, expected.flip(2))
            mirrored += torch.equal(sample, expected.flip(2))
    assert 10 < mirrored < 30  # of 40, 20 are expected


def test_crops_come_from_all_photos_and_all_places():
    """The photo holds its own coordinates: a crop shows where it was cut and how far it shrank."""
    rows, columns = np.mgrid[:200, :240].astype(np.uint8)
    photo = np.stack((rows, columns, np.zeros_like(rows)), 2)
    other = np.full((60, 60, 3), 255, np.uint8)
    centers, extents, others = [], [], 0
    for image, _ in islice(TrainingBatches([photo, other], 40, 8, seed=0), 20):
        for sample in image * 255:
            if sample[2].any():
                others += 1
                continue
            centers.append([sample[0].mean() / 200, sample[1].mean() / 240])
            extents.append((sample[0, -1] - sample[0, 0]).abs().max().item())
    assert 50 < others < 110  # of 160
    assert 35 <= min(extents) < 80 and 150 < max(extents) <= 199
    assert (np.min(centers, 0) < 0.3).all() and (np.max(centers, 0) > 0.7).all()


def test_batches_go_on_from_a_position_and_are_shared_out():
    photos = list(bundled_photos().values())
    whole = list(islice(TrainingBatches(photos, 32, 4, seed=3), 4))
    later = TrainingBatches(photos, 32, 4, seed=3)
    later.position = 2
    assert all(torch.equal(a, b) for a, b in zip(next(later), whole[2], strict=True))
    assert later.position == 3
    shares = [
        next(TrainingBatches(photos, 32, 4, seed=3, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    for part, full in zip(zip(*shares, strict=True), whole[0], strict=True):
        assert torch.equal(torch.stack(part, 1).flatten(0, 1), full)  # every second sample each


def test_workers_make_the_same_batches_from_any_position_and_say_what_they_could_not_read(tmp_path):
    for name in "ab":
        Image.fromarray(PHOTO).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    alone, helped = (
        TrainingBatches(PhotoFolder(tmp_path), 8, 4, seed=0, workers=n) for n in (0, 2)
    )
    for position in (None, None, 7, None, 1):
        if position is not None:
            alone.position = helped.position = position
        for mine, theirs in zip(next(alone), next(helped), strict=True):
            assert torch.equal(mine, theirs) and mine.stride() == theirs.stride()
        assert alone.position == helped.position
    assert alone.unreadable == helped.unreadable and "b.png" in helped.unreadable[1]
    state = torch.get_rng_state()
    next(TrainingBatches(PhotoFolder(tmp_path), 8, 1, seed=0, workers=1))
    assert torch.equal(torch.get_rng_state(), state)  # or a training that goes on would differ


def test_batches_from_torchvisions_own_loader(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "cats" / "a.png")
    dataset = torchvision.datasets.ImageFolder(tmp_path)
    image, mask = next(TrainingBatches(dataset, 8, 2, seed=0))
    assert image.shape == (2, 3, 8, 8) and mask.shape == (2, 1, 8, 8) and image.std() > 0.1


def test_an_unreadable_photo_is_skipped_and_kept_by_name(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "good.png")
    Image.fromarray(PHOTO).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    batches = TrainingBatches(PhotoFolder(tmp_path), 8, 16, seed=0)
    assert next(batches)[0].shape == (16, 3, 8, 8)
    assert list(batches.unreadable) == [0] and "cut.png" in batches.unreadable[0]
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="could not be read"):
        next(TrainingBatches(PhotoFolder(tmp_path), 8, 1, seed=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_travel_as_bytes_and_masks_as_bool(workers):
    photos = list(bundled_photos().values())[:2]
    batches = TrainingBatches(photos, 32, 3, seed=0, workers=workers)
    images, masks, _ = batches[0]
    assert images.dtype == torch.uint8 and masks.dtype == torch.bool
    assert images.shape == (3, 3, 32, 32) and masks.shape == (3, 1, 32, 32)
    loaded_images, loaded_masks = next(batches)
    assert loaded_images.dtype == torch.float32 and loaded_masks.dtype == torch.bool
    assert torch.equal(loaded_images, images.float() / 255) and torch.equal(loaded_masks, masks)
    assert loaded_images.is_contiguous(memory_format=torch.channels_last)


def test_holes_of_many_kinds_are_drawn_on_request():
    photos = [np.zeros((40, 40, 3), np.uint8)]
    irregular, mixed = (
        next(iter(TrainingBatches(photos, 32, 8, seed=3, holes=kind)))[1]
        for kind in ("irregular", "mixed")
    )
    assert irregular.shape == mixed.shape == (8, 1, 32, 32)
    assert not torch.equal(irregular, mixed)
    with pytest.raises(ValueError, match="holes 'round': expected one of irregular, mixed"):
        TrainingBatches(photos, 32, 8, seed=3, holes="round")
