"""L1, PSNR and SSIM against scikit-image and by hand; the table by bucket."""

import io
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from pconv import PConvUNet, compare, evaluate, inpaint, random_holes
from pconv.files import write_json
from pconv.holes import BUCKETS
from pconv.metrics import ON_REQUEST, average, classical, damaged

RNG = np.random.default_rng(0)
PHOTOS = {
    name: RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    for name, size in {"a": (24, 31), "b": (20, 40)}.items()
}
NAMES = ["l1", "psnr", "ssim", "psnr_holes", "ssim_holes"]


def case(height=21, width=33):
    photo, other = (RNG.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
    holes = random_holes(height, width, (0.1, 0.4), RNG)
    return np.where(holes[:, :, None], other, photo), photo, holes


def test_compare_is_scikit_image():
    restored, photo, holes = case()
    actual = compare(restored, photo, holes)
    assert list(actual) == NAMES and all(type(value) is float for value in actual.values())
    ssim, similarity = structural_similarity(
        photo, restored, channel_axis=-1, data_range=255, full=True
    )
    assert actual["ssim"] == pytest.approx(ssim)
    assert actual["psnr"] == pytest.approx(peak_signal_noise_ratio(photo, restored, data_range=255))
    assert actual["l1"] == pytest.approx(np.abs(photo / 255 - restored / 255).mean())
    assert actual["ssim_holes"] == pytest.approx(similarity[holes].mean())
    error = ((photo[holes] / 255 - restored[holes] / 255) ** 2).mean()
    assert actual["psnr_holes"] == pytest.approx(-10 * np.log10(error))
    # nothing differs outside the holes, so the whole photo's error is the holes' times their ratio
    assert actual["psnr"] == pytest.approx(actual["psnr_holes"] - 10 * np.log10(holes.mean()))


def test_in_the_holes_by_hand():
    photo = np.full((8, 8, 3), 100, np.uint8)
    restored, holes = photo.copy(), np.zeros((8, 8), bool)
    holes[2, 3] = holes[5, 5] = True
    # each one of six values, off by 51 = 255 / 5
    restored[2, 3], restored[5, 5] = ((151, 100, 100), (49, 100, 100))
    actual = compare(restored, photo, holes)
    assert actual["psnr_holes"] == pytest.approx(10 * np.log10(25 * 3))
    assert actual["psnr"] == pytest.approx(10 * np.log10(25 * 192 / 2))
    assert actual["l1"] == pytest.approx(2 / 5 / 192)


def test_equal_photos_and_photos_without_holes():
    _, photo, holes = case()
    same = compare(photo, photo, holes)
    assert same == {"l1": 0, "psnr": np.inf, "ssim": 1, "psnr_holes": np.inf, "ssim_holes": 1}
    none = compare(255 - photo, photo, np.zeros_like(holes))
    assert np.isnan([none["psnr_holes"], none["ssim_holes"]]).all()
    assert np.isfinite([none["psnr"], none["ssim"]]).all()


@pytest.mark.parametrize("size", [(6, 30), (30, 6), (1, 1), (7, 7)])
def test_photo_smaller_than_the_window_has_no_ssim(size):
    photo = RNG.integers(0, 255, (*size, 3), dtype=np.uint8)
    actual = compare(photo + np.uint8(1), photo, np.ones(size, bool))
    assert np.isnan([actual["ssim"], actual["ssim_holes"]]).tolist() == [min(size) < 7] * 2
    assert actual["psnr"] == pytest.approx(20 * np.log10(255)) == actual["psnr_holes"]


@pytest.mark.parametrize(
    ("restored", "photo", "holes"),
    [((8, 9, 3), (8, 8, 3), (8, 8)), ((8, 8, 3), (8, 8, 3), (8, 9)), ((8, 8), (8, 8, 3), (8, 8))],
)
def test_shapes_that_do_not_fit_are_refused(restored, photo, holes):
    with pytest.raises(ValueError, match=r"restored \(8.*photo \(8.*holes \(8.*do not fit"):
        compare(np.zeros(restored, np.uint8), np.zeros(photo, np.uint8), np.zeros(holes, bool))


def test_damaged_is_white_in_the_holes():
    _, photo, holes = case()
    white = damaged(photo, holes)
    assert white.dtype == np.uint8
    assert (white[holes] == 255).all()
    assert np.array_equal(white[~holes], photo[~holes])


@pytest.mark.parametrize("method", ["biharmonic", "telea", "navier-stokes", "fsr-fast", "fsr-best"])
def test_classical_methods_continue_a_ramp_and_keep_the_rest(method):
    rows, columns = np.mgrid[:24, :24]
    photo = np.stack((5 * rows, 5 * columns, 2 * (rows + columns)), 2).astype(np.uint8)
    holes = np.zeros((24, 24), bool)
    holes[8:14, 9:15] = True
    restored = classical(on_request=True)[method](damaged(photo, holes), holes)
    assert restored.dtype == np.uint8 and np.array_equal(restored[~holes], photo[~holes])
    assert np.abs(restored.astype(int) - photo).max() <= (1 if method == "biharmonic" else 12)


def test_without_opencv_there_is_biharmonic_alone(monkeypatch):
    monkeypatch.setattr("pconv.metrics.find_spec", lambda name: None)
    assert list(classical()) == ["biharmonic"]


def test_without_opencv_contrib_there_is_no_fsr(monkeypatch):
    assert list(classical()) == ["biharmonic", "telea", "navier-stokes", "fsr-fast"]
    assert set(classical(on_request=True)) - set(classical()) == set(ON_REQUEST) == {"fsr-best"}
    monkeypatch.delattr(cv2, "xphoto")
    assert list(classical(on_request=True)) == ["biharmonic", "telea", "navier-stokes"]


def test_fsr_continues_a_texture_that_the_others_blur():
    """It extrapolates frequencies, so a stripe goes on through the hole; and colors stay colors."""
    stripes = 128 + 100 * np.sin(2 * np.pi * np.arange(48) / 6)
    photo = np.empty((48, 48, 3), np.uint8)
    photo[:] = np.stack((stripes, 200 - stripes / 2, 0 * stripes + 30), 1).round()[None]
    holes = np.zeros((48, 48), bool)
    holes[18:30, 18:30] = True
    errors = {
        name: np.abs(method(photo, holes).astype(int) - photo)[holes].mean()
        for name, method in classical().items()
    }
    assert 4 * errors.pop("fsr-fast") < min(errors.values())


# The table ----------------------------------------------------------------------------------------


def bucket_of(holes):
    return next(i for i, (low, high) in enumerate(BUCKETS) if low < holes.mean() <= high)


def touches_border(holes):
    return np.concatenate((holes[0], holes[-1], holes[:, 0], holes[:, -1])).any()


def test_evaluate_is_the_mean_over_photos_a_row_a_bucket_inside_and_at_the_border():
    calls = []

    def restore(photo, holes):
        calls.append((photo, holes))
        return damaged(photo, holes)

    rows = evaluate(restore, PHOTOS, seed=3)
    assert [(row["low"], row["high"], row["holes"]) for row in rows] == [
        (*bucket, holes) for bucket in BUCKETS for holes in ("interior", "border")
    ]
    assert len(calls) == 24
    # They come from several threads: in the order of the rows and photos again.
    order = {photo.tobytes(): index for index, photo in enumerate(PHOTOS.values())}
    calls.sort(
        key=lambda call: (bucket_of(call[1]), touches_border(call[1]), order[call[0].tobytes()])
    )
    for row, pair in zip(rows, zip(calls[::2], calls[1::2]), strict=True):
        assert (
            list(row) == ["low", "high", "holes", "photos", "lpips", *NAMES] and row["photos"] == 2
        )
        actual = []
        for (photo, holes), expected in zip(pair, PHOTOS.values(), strict=True):
            assert np.array_equal(photo, expected)
            assert row["low"] < holes.mean() <= row["high"]
            assert touches_border(holes) == (row["holes"] == "border")
            actual.append(compare(damaged(photo, holes), photo, holes))
        for name in NAMES:
            assert row[name] == pytest.approx(np.mean([values[name] for values in actual]))
        assert row["lpips"] is None


def test_evaluate_repeats_with_its_seed_and_takes_a_model():
    model, photos = PConvUNet(widths=(4,)), {"a": PHOTOS["a"]}
    rows = evaluate(model, photos, seed=1)
    assert rows == evaluate(lambda photo, holes: inpaint(model, photo, holes), photos, seed=1)
    assert rows != evaluate(model, photos, seed=2)
    assert rows == evaluate(model, list(photos.values()), seed=1)
    assert evaluate(damaged, photos) == evaluate(damaged, {"other name": PHOTOS["a"]})


def test_evaluate_with_lpips_has_its_mean():
    def mean_difference(photo, other):
        return float(np.abs(photo.astype(int) - other).mean())

    rows = evaluate(damaged, PHOTOS, lpips=mean_difference)
    assert [row["lpips"] for row in rows] == pytest.approx([255 * row["l1"] for row in rows])


@pytest.mark.parametrize("training", [False, True])
def test_evaluate_leaves_the_model_and_the_threads_as_they_were(training):
    model, threads = PConvUNet(widths=(4,)).train(training), torch.get_num_threads()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, PHOTOS)
    assert model.training == training and torch.get_num_threads() == threads
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_evaluate_moves_the_bar_by_one_a_photo():
    with tqdm(disable=False, file=io.StringIO()) as bar:
        evaluate(damaged, PHOTOS, progress=bar)
    assert bar.n == 2 * len(BUCKETS) * len(PHOTOS)


def test_biharmonic_takes_holes_as_pillow_gives_them():
    """A Pillow image of mode "1" is a bool array that cannot be written to, with bytes of 255."""
    _, photo, holes = case()
    of_pillow = np.asarray(Image.fromarray(holes))
    assert of_pillow.dtype == bool and not of_pillow.flags.writeable
    biharmonic = classical()["biharmonic"]
    assert np.array_equal(biharmonic(photo, of_pillow), biharmonic(photo, holes))


# What is refused, and perfect fills ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("restored", "photo", "holes", "words"),
    [
        (np.float32, np.uint8, bool, "restored is float32; expected uint8"),
        (np.uint8, np.float64, bool, "photo is float64; expected uint8"),
        (np.uint8, np.uint8, np.uint8, "holes are uint8; expected bool, True = hole: holes > 0"),
        (np.uint8, np.uint16, bool, "photo is uint16"),
    ],
)
def test_compare_refuses_other_dtypes(restored, photo, holes, words):
    with pytest.raises(TypeError, match=words):
        compare(np.zeros((9, 9, 3), restored), np.zeros((9, 9, 3), photo), np.ones((9, 9), holes))


def test_a_perfect_fill_counts_as_100_db_in_a_mean_and_json_stays_json(tmp_path):
    blank = np.full((32, 32, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def fill(photo, holes):
        return np.where(holes[:, :, None], np.uint8(90), photo)

    holes = np.zeros((32, 32), bool)
    holes[8:20, 8:20] = True
    perfect, other = (compare(fill(photo, holes), photo, holes) for photo in (blank, noise))
    assert np.isinf(perfect["psnr"]) and np.isinf(perfect["psnr_holes"])
    means = average([perfect, other])
    assert means["psnr"] == pytest.approx((100 + other["psnr"]) / 2)
    assert means["psnr_holes"] == pytest.approx((100 + other["psnr_holes"]) / 2)
    assert means["ssim"] == pytest.approx((1 + other["ssim"]) / 2)
    rows = evaluate(fill, [blank, noise])
    assert all(np.isfinite(row["psnr"]) for row in rows)
    write_json(tmp_path / "rows.json", [perfect, *rows])

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    read = json.loads((tmp_path / "rows.json").read_text(), parse_constant=refuse)
    assert read[0]["psnr"] is None and read[1]["psnr"] == rows[0]["psnr"]
