"""Hole masks, drawn with an exact ratio."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import PHOTO
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from pconv import random_holes
from pconv.data import TrainingBatches
from pconv.holes import BUCKETS, HOLE_KINDS, mixed_holes

pytestmark = pytest.mark.usefixtures("one_thread")

# Drawn --------------------------------------------------------------------------------------------


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
    counts = [
        k
        for k in range(1, most + 1)
        if Fraction(low, 100) * pixels < k <= Fraction(high, 100) * pixels
    ]

    def draw():
        rng = np.random.default_rng(seed)
        return random_holes(height, width, (low / 100, high / 100), rng, border)

    if not counts:
        with pytest.raises(
            ValueError, match=rf"no hole of a ratio in .* in {height}x{width} pixels"
        ):
            draw()
        return
    holes = draw()
    assert holes.sum() in counts
    assert border is None or border_of(holes).any() == border


@pytest.mark.parametrize("percent", [29, 30, 57, 58])
def test_bounds_are_the_decimal_fractions_they_look_like(percent):
    """In binary 0.29 * 100 and 0.57 * 100 fall short of 29 and 57."""
    for seed in range(5):
        holes = random_holes(
            10, 10, ((percent - 1) / 100, percent / 100), np.random.default_rng(seed)
        )
        assert holes.sum() == percent


@pytest.mark.parametrize(
    "ratio", [(0.2, 0.2), (0.3, 0.2), (-0.1, 0.2), (0.5, 1.1), (float("nan"), 0.5)]
)
def test_ranges_that_are_none_are_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio=\(.*expected 0 <= lo < hi <= 1"):
        random_holes(16, 16, ratio)


@pytest.mark.parametrize("border", [None, False])
@pytest.mark.parametrize("ratio", [(0.0, 0.1), (0.5, 0.6), (0.05, 0.55)])
def test_ratio_is_uniform_in_the_range(ratio, border):
    """Kolmogorov-Smirnov: at 0.1 %, the largest gap between the two distributions is 1.95/√n."""
    rng, n = np.random.default_rng(2), 300
    drawn = np.sort([random_holes(40, 40, ratio, rng, border).mean() for _ in range(n)])
    uniform = (drawn - ratio[0]) / (ratio[1] - ratio[0])
    steps = np.arange(n + 1) / n
    assert max(
        np.abs(uniform - steps[1:]).max(), np.abs(uniform - steps[:-1]).max()
    ) < 1.95 / np.sqrt(n)


def test_holes_repeat_with_the_generator_and_fall_anywhere():
    def draw(seed):
        rng = np.random.default_rng(seed)
        return [random_holes(32, 32, rng=rng) for _ in range(2)]

    first, again, other = draw(3), draw(3), draw(4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(*first)
    # without one, a fresh generator
    assert not np.array_equal(random_holes(32, 32), random_holes(32, 32))
    rng = np.random.default_rng(5)
    often = np.mean([random_holes(24, 24, (0.2, 0.3), rng) for _ in range(200)], 0)
    assert often.min() > 0.03 and often.max() < 0.5  # no pixel is spared, none is always lost


def test_the_global_generator_is_left_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    random_holes(32, 32)
    next(TrainingBatches([PHOTO[:12, :17]], 8, 1, seed=0))
    assert np.array_equal(state, np.random.get_state()[1])


# Many kinds, for training -------------------------------------------------------------------------


def test_mixed_holes_repeat_and_keep_to_the_ratio():
    for seed in range(60):
        first, second = (
            mixed_holes(48, 64, (0.05, 0.4), np.random.default_rng(seed)) for _ in range(2)
        )
        assert first.dtype == bool and first.shape == (48, 64)
        assert np.array_equal(first, second) and 0.05 < first.mean() <= 0.4


def test_mixed_holes_are_wider_than_irregular_ones():
    def widest(holes):
        """The distance in pixels from the middle of the widest hole to what is known."""
        return distance_transform_edt(np.pad(holes, 1)).max()

    reach = {kind: [] for kind in HOLE_KINDS}
    for seed in range(60):
        for kind, draw in HOLE_KINDS.items():
            reach[kind].append(widest(draw(128, 128, (0.2, 0.5), np.random.default_rng(seed))))
    assert np.mean(reach["mixed"]) > 1.1 * np.mean(reach["irregular"])


def test_a_ratio_that_no_drawing_has_falls_back_to_random_holes():
    holes = mixed_holes(64, 64, (0.001, 0.002), np.random.default_rng(2))
    assert 0.001 < holes.mean() <= 0.002
    with pytest.raises(ValueError, match="expected 0 <= lo < hi"):
        mixed_holes(64, 64, (0.5, 0.4), np.random.default_rng(2))
