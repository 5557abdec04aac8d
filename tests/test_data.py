"""Photos of every kind, hole masks whose ratio is exact, and batches that repeat."""

from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pconv import bundled_photos, random_holes
from pconv.data import BUCKETS, PhotoFolder, TrainingBatches, as_photo, centre_crop, photo_files, to_tensor

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


# Holes ----------------------------------------------------------------------------------------------------------------


def border_of(holes):
    return np.concatenate((holes[0], holes[-1], holes[:, 0], holes[:, -1]))


def test_the_papers_buckets():
    assert BUCKETS == ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))


@pytest.mark.parametrize("border", [None, True, False])
@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("size", [(64, 64), (37, 90)])
def test_ratio_is_in_the_bucket_and_holes_keep_to_the_border_asked_for(size, bucket, border):
    rng = np.random.default_rng(1)
    for _ in range(10):
        holes = random_holes(*size, bucket, rng, border)
        assert holes.shape == size and holes.dtype == bool
        assert bucket[0] < holes.mean() <= bucket[1]
        if border is not None:
            assert border_of(holes).any() == border


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 99),
    st.integers(1, 100),
    st.sampled_from([None, True, False]),
    st.integers(0, 9),
)
@settings(max_examples=200)
def test_any_size_and_range_is_met_exactly_or_refused(height, width, low, extra, border, seed):
    high = min(100, low + extra)
    pixels, inner = height * width, max(0, height - 2) * max(0, width - 2)
    most = inner if border is False else pixels
    counts = [k for k in range(1, most + 1) if Fraction(low, 100) * pixels < k <= Fraction(high, 100) * pixels]
    draw = lambda: random_holes(height, width, (low / 100, high / 100), np.random.default_rng(seed), border)  # noqa: E731
    if not counts:
        with pytest.raises(ValueError, match=rf"no hole of a ratio in .* in {height}x{width} pixels"):
            draw()
        return
    holes = draw()
    assert holes.sum() in counts
    assert border is None or border_of(holes).any() == border


@pytest.mark.parametrize("percent", [29, 30, 57, 58])
def test_bounds_are_the_decimal_fractions_they_look_like(percent):
    """In binary 0.29 * 100 and 0.57 * 100 fall short of 29 and 57."""
    for seed in range(5):
        holes = random_holes(10, 10, ((percent - 1) / 100, percent / 100), np.random.default_rng(seed))
        assert holes.sum() == percent


@pytest.mark.parametrize("ratio", [(0.2, 0.2), (0.3, 0.2), (-0.1, 0.2), (0.5, 1.1), (float("nan"), 0.5)])
def test_ranges_that_are_none_are_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio=\(.*expected 0 <= lo < hi <= 1"):
        random_holes(16, 16, ratio)


@pytest.mark.parametrize("border", [None, False])
@pytest.mark.parametrize("ratio", [(0.0, 0.1), (0.5, 0.6), (0.05, 0.55)])
def test_ratio_is_uniform_in_the_range(ratio, border):
    """Kolmogorov and Smirnov: the 0.1 % limit of the largest gap between the two distributions is 1.95/√n."""
    rng, n = np.random.default_rng(2), 300
    drawn = np.sort([random_holes(40, 40, ratio, rng, border).mean() for _ in range(n)])
    uniform = (drawn - ratio[0]) / (ratio[1] - ratio[0])
    steps = np.arange(n + 1) / n
    assert max(np.abs(uniform - steps[1:]).max(), np.abs(uniform - steps[:-1]).max()) < 1.95 / np.sqrt(n)


def test_holes_repeat_with_the_generator_and_fall_anywhere():
    draw = lambda seed: [random_holes(32, 32, rng=rng) for rng in [np.random.default_rng(seed)] for _ in range(2)]  # noqa: E731
    first, again, other = draw(3), draw(3), draw(4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(*first)
    assert not np.array_equal(random_holes(32, 32), random_holes(32, 32))  # without one, a fresh generator
    rng = np.random.default_rng(5)
    often = np.mean([random_holes(24, 24, (0.2, 0.3), rng) for _ in range(200)], 0)
    assert often.min() > 0.03 and often.max() < 0.5  # no pixel is spared, none is always lost


def test_the_global_generator_is_left_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    random_holes(32, 32)
    next(TrainingBatches([PHOTO], 8, 1, 0))
    assert np.array_equal(state, np.random.get_state()[1])


# Photos ---------------------------------------------------------------------------------------------------------------


def test_bundled_photos():
    trained_on, held_out = bundled_photos(), bundled_photos(held_out=True)
    assert list(held_out) == ["astronaut", "coffee"] and not trained_on.keys() & held_out.keys()
    assert {"chelsea", "motorcycle_left", "motorcycle_right", "grass"} <= trained_on.keys()
    for photo in (*trained_on.values(), *held_out.values()):
        assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and min(photo.shape[:2]) >= 256
    assert (trained_on["grass"] == trained_on["grass"][:, :, :1]).all()  # grey


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
def test_modes_that_lose_nothing(tmp_path, mode):
    """Grey is repeated, transparent pixels keep their colour, palettes are looked up."""
    grey = PHOTO[:, :, 0]
    alpha = np.zeros((*grey.shape, 1), np.uint8)
    palette = np.arange(21, dtype=np.uint8) * 12
    array, wanted = {
        "RGB": (PHOTO, PHOTO),
        "L": (grey, grey[:, :, None].repeat(3, 2)),
        "RGBA": (np.concatenate((PHOTO, alpha), 2), PHOTO),
        "LA": (np.concatenate((grey[:, :, None], alpha), 2), grey[:, :, None].repeat(3, 2)),
        "P": (grey % 7, palette.reshape(7, 3)[grey % 7]),
        "1": (grey > 127, np.where(grey[:, :, None] > 127, 255, 0).repeat(3, 2)),
    }[mode]
    picture = Image.fromarray(array)
    if mode == "P":
        picture.putpalette(palette.tobytes())
    path = tmp_path / "photo.png"
    picture.save(path, **({"transparency": 3} if mode == "P" else {}))  # of a palette, one colour is transparent
    with Image.open(path) as reopened:
        assert reopened.mode == mode
    for source in (picture, path, str(path)):
        photo = as_photo(source)
        assert photo.dtype == np.uint8 and photo.shape == PHOTO.shape and np.array_equal(photo, wanted)


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "print.jpg"
    flat = Image.new("CMYK", (16, 8), (0, 255, 255, 0))  # magenta and yellow ink make red
    flat.save(path, quality=95)
    assert np.abs(as_photo(path).astype(int) - (255, 0, 0)).max() <= 6
    assert as_photo(path).shape == (8, 16, 3)


def test_16_bit_png_is_scaled_and_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 12 * 17).round().astype(np.uint16).reshape(12, 17)
    path = tmp_path / "deep.png"
    Image.fromarray(levels).save(path)
    photo = as_photo(path)
    assert photo.shape == (12, 17, 3) and (photo == photo[:, :, :1]).all()
    assert np.abs(photo[:, :, 0] - levels / 257).max() <= 0.5
    dark = levels[:1, :1] + np.arange(200, dtype=np.uint16)[None]  # a dark corner of it is as dark on its own
    Image.fromarray(dark).save(path)
    assert as_photo(path).max() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """The tag says where the stored row 0 and column 0 belong: EXIF 2.3, 4.6.4 A."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    to_stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(to_stored(upright))).save(path, exif=exif)
    assert np.array_equal(as_photo(path), upright)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (PHOTO, PHOTO),
        (PHOTO[:, :, 0], PHOTO[:, :, [0, 0, 0]]),
        (PHOTO[:, :, :1], PHOTO[:, :, [0, 0, 0]]),
        (PHOTO[:, :, [0, 1, 2, 0]], PHOTO),
        (PHOTO[::-1, ::2], PHOTO[::-1, ::2]),
    ],
)
def test_arrays(array, wanted):
    photo = as_photo(array)
    assert np.array_equal(photo, wanted) and photo.flags.c_contiguous


@pytest.mark.parametrize(
    ("photo", "error", "words"),
    [
        (PHOTO / 255, TypeError, r"array of float64; expected uint8: \(255 \* photo\)"),
        (PHOTO[:, :, :2], ValueError, r"shape \(12, 17, 2\); expected"),
        (PHOTO[None], ValueError, r"shape \(1, 12, 17, 3\)"),
        (PHOTO[:0], ValueError, r"shape \(0, 17, 3\)"),
        ("no/such/photo.jpg", FileNotFoundError, r"no photo at no/such/photo\.jpg"),
    ],
)
def test_what_is_no_photo_is_refused(photo, error, words):
    with pytest.raises(error, match=words):
        as_photo(photo)


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Three photos, one with an uppercase ending, one nested; a text file named .jpg, a cut one, and a note."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    Image.fromarray(PHOTO).save(tmp_path / "a.PNG")
    Image.fromarray(PHOTO[::-1]).save(tmp_path / "b" / "c" / "d.Jpeg")
    Image.fromarray(PHOTO[:, :, 0]).save(tmp_path / "b" / "e.bmp")
    (tmp_path / "b" / "text.jpg").write_text("not a photo")
    (tmp_path / "notes.txt").write_text("not named like one")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_photo_folder_reads_all_names_the_unreadable_and_can_be_strict(folder):
    photos = PhotoFolder(folder)
    assert photos.names == ["a.PNG", "b/c/d.Jpeg", "b/e.bmp"] and photos.unreadable == ["b/text.jpg"]
    assert len(photos) == 3 and np.array_equal(photos[0], PHOTO)
    assert [photo.shape for photo in photos] == [PHOTO.shape] * 3
    assert [path.name for path in photo_files(str(folder))] == ["a.PNG", "d.Jpeg", "e.bmp", "text.jpg"]
    with pytest.raises(ValueError, match=r"text\.jpg is not a readable photo"):
        PhotoFolder(folder, strict=True)
    with pytest.raises(ValueError, match=r"text\.jpg is not a readable photo"):
        as_photo(folder / "b" / "text.jpg")
    (folder / "b" / "text.jpg").unlink()
    assert len(PhotoFolder(folder, strict=True)) == 3


def test_photo_cut_in_the_middle_is_refused_by_name(folder):
    whole = (folder / "a.PNG").read_bytes()
    (folder / "a.PNG").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.PNG is not a readable photo"):
        as_photo(folder / "a.PNG")


def test_folders_without_a_photo_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        PhotoFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"no photos in {tmp_path}"):
        PhotoFolder(tmp_path)
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(ValueError, match=r"text\.jpg is not a readable photo"):
        PhotoFolder(tmp_path)


# Tensors and batches --------------------------------------------------------------------------------------------------


def test_to_tensor_and_centre_crop():
    tensor = to_tensor(PHOTO)
    assert tensor.shape == (1, 3, 12, 17) and tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), PHOTO.astype(np.float32) / 255)
    wide = np.repeat(np.repeat(PHOTO[:4, :8], 8, 0), 8, 1)  # blocks of 8: 32 x 64
    assert np.array_equal(centre_crop(wide, 32), wide[:, 16:48])
    assert centre_crop(wide, 16).shape == (16, 16, 3) == centre_crop(wide[:9], 16).shape


def test_batches_repeat_with_the_seed():
    photos = [PHOTO, PHOTO[:9, :9]]
    first, again, other = ([*islice(TrainingBatches(photos, 8, 3, seed), 3)] for seed in (7, 7, 8))
    for (image, mask), (same_image, same_mask), (other_image, other_mask) in zip(first, again, other, strict=True):
        assert torch.equal(image, same_image) and torch.equal(mask, same_mask)
        assert not torch.equal(image, other_image) and not torch.equal(mask, other_mask)
    assert not torch.equal(first[0][0], first[1][0]) and not torch.equal(first[0][1], first[1][1])


@pytest.mark.parametrize("size", [8, 12, 16, 40])
def test_batches_are_images_and_masks_of_the_size_asked_for(size):
    """Also where the photos are smaller than the crop."""
    for image, mask in islice(TrainingBatches([PHOTO], size, 4, 0, (0.2, 0.4)), 3):
        assert image.shape == (4, 3, size, size) and mask.shape == (4, 1, size, size)
        assert image.dtype == mask.dtype == torch.float32
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= image.min() < image.max() <= 1
        assert ((mask == 0) | (mask == 1)).all()
        ratios = (mask == 0).double().mean((1, 2, 3))
        assert ((ratios > 0.2) & (ratios <= 0.4)).all()


def test_a_photo_of_the_crops_size_comes_as_it_is_or_mirrored():
    photo = PHOTO[:, :12]
    wanted = to_tensor(photo)[0]
    mirrored = 0
    for image, _ in islice(TrainingBatches([photo], 12, 8, 0), 5):
        for sample in image:
            assert torch.equal(sample, wanted) or torch.equal(sample, wanted.flip(2))
            mirrored += torch.equal(sample, wanted.flip(2))
    assert 10 < mirrored < 30  # of 40, 20 are expected


def test_crops_come_from_all_photos_and_all_places():
    """In a photo that holds its own coordinates, a crop tells where it was cut and how much it was shrunk."""
    rows, columns = np.mgrid[:200, :240].astype(np.uint8)
    photo = np.stack((rows, columns, np.zeros_like(rows)), 2)
    other = np.full((60, 60, 3), 255, np.uint8)
    centres, extents, others = [], [], 0
    for image, _ in islice(TrainingBatches([photo, other], 40, 8, 0), 20):
        for sample in image * 255:
            if sample[2].any():
                others += 1
                continue
            centres.append([sample[0].mean() / 200, sample[1].mean() / 240])
            extents.append((sample[0, -1] - sample[0, 0]).abs().max().item())
    assert 50 < others < 110  # of 160
    assert 35 <= min(extents) < 80 and 150 < max(extents) <= 199
    assert (np.min(centres, 0) < 0.3).all() and (np.max(centres, 0) > 0.7).all()


def test_batches_go_on_from_a_position_and_are_shared_out():
    photos = list(bundled_photos().values())
    whole = list(islice(TrainingBatches(photos, 32, 4, seed=3), 4))
    later = TrainingBatches(photos, 32, 4, seed=3)
    later.position = 2
    assert all(torch.equal(a, b) for a, b in zip(next(later), whole[2], strict=True)) and later.position == 3
    shares = [next(TrainingBatches(photos, 32, 4, seed=3, share=(rank, 2))) for rank in (0, 1)]
    for part, full in zip(zip(*shares, strict=True), whole[0], strict=True):
        assert torch.equal(torch.stack(part, 1).flatten(0, 1), full)  # every second sample each


def test_workers_make_the_same_batches_from_any_position_and_say_what_they_could_not_read(tmp_path):
    for name in "ab":
        Image.fromarray(PHOTO).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    alone, helped = (TrainingBatches(PhotoFolder(tmp_path), 8, 4, seed=0, workers=n) for n in (0, 2))
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
