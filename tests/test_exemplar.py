"""Copied patches: all pixels are from the photo, and the best patch is the right one."""

import numpy as np
import pytest
import torch
from course.exemplar import (
    _distances,
    _next_patch,
    _searched,
    exemplar_fill,
    square_hole,
    texture_photos,
)

import pconv


def test_a_pattern_that_repeats_comes_back_exactly():
    rng = np.random.default_rng(0)
    photo = np.tile(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (8, 8, 1))
    hole = square_hole(30, (48, 48), 96)
    damaged = np.where(hole[:, :, None], np.uint8(0), photo)
    assert np.array_equal(exemplar_fill(damaged, hole, choices=1), photo)


def test_only_pixels_from_outside_the_hole_are_used_and_outside_nothing_changes():
    photo = texture_photos(pconv.bundled_photos())["gravel"][:80, :80]
    hole = square_hole(24, (40, 40), 80)
    noisy = np.where(hole[:, :, None], np.uint8(77), photo)
    filled = exemplar_fill(photo, hole, size=9)
    assert np.array_equal(filled, exemplar_fill(noisy, hole, size=9))
    assert np.array_equal(filled[~hole], photo[~hole])
    assert set(filled[hole][:, 0]) <= set(photo[~hole][:, 0])
    assert not np.array_equal(filled, exemplar_fill(photo, hole, size=9, seed=1))


def test_a_hole_at_the_border_is_filled():
    photo = texture_photos(pconv.bundled_photos())["grass"][:64, :64]
    hole = np.zeros((64, 64), bool)
    hole[:9, :20] = hole[50:, 60:] = True
    damaged = np.where(hole[:, :, None], np.uint8((255, 0, 255)), photo)
    assert not (exemplar_fill(damaged, hole, size=9) == (255, 0, 255)).all(2).any()
    assert np.array_equal(exemplar_fill(photo, np.zeros_like(hole)), photo)


def test_the_distance_is_that_of_a_loop_less_a_constant():
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (20, 22, 3), dtype=np.uint8)
    known = rng.random((5, 5)) < 0.6
    actual = _distances(_searched(photo), photo[3:8, 4:9], known)
    scaled = photo / 255
    expected = np.array(
        [
            [
                ((scaled[r : r + 5, c : c + 5] - scaled[3:8, 4:9]) ** 2)[known].sum()
                for c in range(18)
            ]
            for r in range(16)
        ]
    )
    assert actual.shape == expected.shape
    assert np.allclose(actual - actual[3, 4], expected, atol=1e-4)
    assert torch.is_tensor(_searched(photo)) and expected.argmin() == 3 * 18 + 4


def test_the_next_patch_is_where_most_is_known():
    known = np.ones((40, 40), bool)
    known[:, 20:] = False
    known[30:, 20:] = True
    rows, columns = _next_patch(known, 9)
    assert rows.stop - rows.start == columns.stop - columns.start == 9
    assert (rows.start, columns.start) == (25, 16)  # around the inner corner


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="cut out what is around the hole"):
        exemplar_fill(np.zeros((600, 600, 3), np.uint8), np.zeros((600, 600), bool))
    with pytest.raises(ValueError, match="too few"):
        exemplar_fill(np.zeros((30, 30, 3), np.uint8), square_hole(20, (15, 15), 30))
