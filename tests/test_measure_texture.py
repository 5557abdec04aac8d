"""The texture measures of scripts/measure_texture.py, on textures that are known."""

import numpy as np
import pytest
from measure_texture import (
    compare_methods,
    measure,
    pattern,
    power,
    sharpness,
    wide_holes,
    windows_in,
)
from skimage.filters import gaussian

from pconv import bundled_photos
from pconv.photos import center_crop

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8)
HOLES = np.zeros((256, 256), bool)
HOLES[64:192, 64:192] = True


def wave(period, amplitude=8, axis=1):
    """Noise with a wave on it, (32, 32, 3)."""
    phase = 2 * np.pi * np.arange(32) / period
    waves = amplitude * np.sin(phase)
    waves = waves[None, :, None] if axis == 1 else waves[:, None, None]
    return (RNG.normal(128, 2, (32, 32, 3)) + waves).round().astype(np.uint8)


@pytest.mark.parametrize("period", [4, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_is_a_pattern_at_its_period_only(period, axis):
    spectrum = power(wave(period, axis=axis))
    assert pattern(spectrum, period) > 0.5
    assert abs(pattern(spectrum, 12 - period)) < 0.35


def test_a_wave_stands_out_in_the_frequency_of_its_period():
    along_rows, along_columns = power(wave(8))
    assert along_rows.argmax() == 4 and along_rows[4] > 20 * along_columns[4]


def test_noise_and_real_photos_have_no_pattern():
    photo = center_crop(bundled_photos(held_out=True)["coffee"], 256)
    for picture in (NOISE, photo):
        rows = measure(picture, picture, HOLES)
        for period in (4, 8):
            assert abs(np.mean([row[f"pattern_{period}"] for row in rows])) < 0.25
        assert all(row["sharpness"] == 0 for row in rows)


def test_a_smooth_fill_is_less_sharp_and_has_no_pattern():
    photo = center_crop(bundled_photos()["grass"], 256)
    smooth = np.rint(gaussian(photo, 3, channel_axis=-1) * 255).astype(np.uint8)
    rows = measure(smooth, photo, HOLES)
    assert np.mean([row["sharpness"] for row in rows]) < -1
    assert np.mean([row["pattern_4"] for row in rows]) < 0.1
    flat = power(np.full((32, 32, 3), 77, np.uint8))
    assert pattern(flat, 4) == pattern(flat, 8) == 0
    assert np.isfinite(sharpness(flat, power(NOISE[:32, :32])))


def test_windows_lie_inside_the_holes():
    windows = list(windows_in(HOLES))
    assert len(windows) == ((128 - 32) // 8 + 1) ** 2
    assert all(HOLES[window].all() for window in windows)
    too_thin = np.zeros((64, 64), bool)
    too_thin[:, 10:41] = True
    assert list(windows_in(too_thin)) == []


def test_wide_holes_are_a_sixth_to_a_third():
    for seed in range(20):
        holes = wide_holes(96, 128, np.random.default_rng(seed))
        assert 0.14 < holes.mean() < 0.34 and list(windows_in(holes))


def test_the_table_compares_methods_on_the_same_holes():
    photos = [center_crop(bundled_photos()["brick"], 128)]

    def blank(photo, holes):
        return np.where(holes[:, :, None], np.uint8(90), photo)

    rows = compare_methods({"photo": lambda photo, holes: photo, "blank": blank}, photos, seed=0)
    assert {row["method"] for row in rows} == {"photo", "blank"}
    windows = {(row["method"], row["holes"]): row["windows"] for row in rows}
    assert windows["photo", "box"] == windows["blank", "box"] > 0
    of_photo, of_blank = (
        next(r for r in rows if (r["method"], r["holes"]) == (name, "box"))
        for name in ("photo", "blank")
    )
    assert of_photo["sharpness"] == 0 > -1 > of_blank["sharpness"]
