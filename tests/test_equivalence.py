"""Trainings compared, for notebook 08: the record is read as it is, and the rule for "the same"."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from course import equivalence
from scipy import stats

ROOT = Path(__file__).parents[1]
RECORD = equivalence.load_record(ROOT / "data" / "results" / "training_cpu.json")
SEEDS = len(RECORD["seed"])


@pytest.fixture
def axis():
    yield plt.figure().subplots()
    plt.close("all")


def interval(d):
    n = d.shape[-1]
    return d.mean(-1), stats.t.ppf(0.975, n - 1) * d.std(-1, ddof=1) / n**0.5


def says_same(margin_of, correlation, n, true=2):
    """The share of experiments with a true difference of `true` that say "the same"."""
    fp32, amp = equivalence.simulate_pairs(true, correlation, n, experiments=20_000)
    mean, half = interval(amp - fp32)
    return (abs(mean) + half < margin_of(fp32)).mean()


@pytest.mark.parametrize("correlation", [0, 0.5, 0.97])
@pytest.mark.parametrize("n", [4, 12])
def test_with_a_fixed_margin_a_true_difference_of_that_size_rarely_passes(correlation, n):
    assert says_same(lambda a: 2, correlation, n) < 0.03


def test_with_a_margin_of_the_same_runs_it_passes_often():
    assert 0.28 < says_same(lambda a: 2 * a.std(-1, ddof=1), correlation=0.97, n=12) < 0.34


def test_simulated_pairs_have_the_correlation_and_the_shift():
    fp32, amp = equivalence.simulate_pairs(0.3, correlation=0.6, n=5, experiments=40_000)
    assert fp32.shape == amp.shape == (40_000, 5)
    assert np.corrcoef(fp32.ravel(), amp.ravel())[0, 1] == pytest.approx(0.6, abs=0.01)
    assert (amp - fp32).mean() == pytest.approx(0.3, abs=0.01)
    assert fp32.std() == pytest.approx(1, abs=0.01) and amp.std() == pytest.approx(1, abs=0.01)
    again, moved = equivalence.simulate_pairs(1.3, correlation=0.6, n=5, experiments=40_000)
    assert (again == fp32).all() and np.allclose(moved, amp + 1)


@pytest.mark.parametrize("precision", RECORD["precisions"])
@pytest.mark.parametrize("quantity", equivalence.MEASURES)
def test_a_curve_ends_at_the_mean_over_the_buckets(precision, quantity):
    last = equivalence.measured(RECORD, precision, quantity)[:, -1]
    kinds = ("interior", "border")
    buckets = [equivalence.by_bucket(RECORD, precision, kind, quantity) for kind in kinds]
    assert [table.shape for table in buckets] == [(SEEDS, 6)] * 2
    np.testing.assert_allclose(last, np.mean(buckets, axis=(0, 2)))


def test_what_is_not_measured_is_nan():
    loss = equivalence.measured(RECORD, "fp32", "total")
    assert np.isnan(loss[:, 0]).all() and np.isfinite(loss[:, 1:]).all()


def test_pairing_helps_bf16_and_not_emulated_fp16():
    def correlation(precision):
        ends = [equivalence.measured(RECORD, p, "ssim")[:, -1] for p in ("fp32", precision)]
        return np.corrcoef(*ends)[0, 1]

    assert correlation("bf16") > 0.9 and correlation("fp16-emulated") < 0.5
    skipped = {p: equivalence.measured(RECORD, p, "skipped_steps") for p in RECORD["precisions"]}
    assert (skipped["fp16-emulated"][:, 1] >= 4).all() and not skipped["bf16"].any()


def test_the_record_is_of_random_filters_and_two_photos():
    assert RECORD["settings"]["vgg"] == "random" and len(RECORD["settings"]["held_out"]) == 2


def test_an_emulated_precision_looks_like_the_real_one():
    assert equivalence.look("fp16-emulated") == equivalence.look("fp16")
    assert equivalence.look("fp32, other seed") == {"color": "#888888"}


ROWS = [
    {"precision": p, "name": "SSIM", "share": share, "half": 1, "verdict": "same"}
    for p, share in (("bf16", -1), ("bf16", 0), ("fp16-emulated", 2))
]


def test_the_forest_has_a_row_and_a_verdict_each(axis):
    equivalence.draw_forest(axis, ROWS, margin=5)
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["bf16   SSIM", "bf16   SSIM", "fp16-emulated   SSIM"]
    right = axis.figure.axes[1]
    assert [label.get_text() for label in right.get_yticklabels()] == ["same"] * 3
    assert right.get_ylim() == axis.get_ylim()
    assert "5 %" in right.get_title()


def test_bands_pairs_and_scale_are_drawn(axis):
    equivalence.draw_bands(axis, RECORD, "ssim_holes", "SSIM")
    assert len(axis.lines) == len(RECORD["precisions"]) and axis.get_ylabel() == "SSIM"
    equivalence.draw_pairs(RECORD, "ssim")
    assert "0.97" in plt.gcf().axes[0].get_title()
    equivalence.draw_scale(RECORD, "fp16-emulated")
    assert len(plt.gcf().axes[0].lines) == SEEDS


def test_the_title_picture_is_written(tmp_path):
    path = tmp_path / "title.png"
    equivalence.title_picture(RECORD, ROWS, 5, path)
    assert 10_000 < path.stat().st_size < 150_000
    committed = ROOT / "notebooks" / "images" / "08_same_ssim.png"
    assert 10_000 < committed.stat().st_size < 150_000
