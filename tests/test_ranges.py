"""The histograms of exponents, and what they say of FP16 and BF16, against rounding itself."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from pconv.ranges import FORMATS, RangeReport, count_exponents

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# The numbers on both sides of every limit of FP16 and BF16, and between them.
EDGES = [2.0**-25, 2.0**-24, 2.0**-14, 65504, 65519.99, 65520, 65536, 2.0**16, 1.0, 0.75]
EDGES += [2.0**-134, 2.0**-133, 2.0**-126, 3.3e38]


def around(values):
    values = torch.tensor(values)
    up = values.nextafter(torch.tensor(math.inf))
    down = values.nextafter(torch.tensor(-math.inf))
    return torch.cat([values, -values, up, -up, down, -down])


def rounded_shares(values, dtype, scale=1.0):
    """to_zero, subnormal, overflow of what is finite and not 0, by rounding."""
    values = values[values.isfinite() & (values != 0)].double() * scale
    half = values.to(torch.float32).to(dtype)
    to_zero = half == 0
    subnormal = (half.abs() < torch.finfo(dtype).smallest_normal) & ~to_zero
    return [part.double().mean().item() for part in (to_zero, subnormal, half.isinf())]


def report_of(values, kind="gradients", **options):
    report = RangeReport(**options)
    report.record(kind, "layer", values)
    return report


def test_the_limits_are_those_of_the_formats():
    for name, dtype in DTYPES.items():
        info = torch.finfo(dtype)
        to_zero, normal, overflow = FORMATS[name]
        assert info.smallest_normal == 2.0**normal
        assert torch.tensor(2.0**to_zero).to(dtype) == 0
        assert torch.tensor(1.01 * 2.0**to_zero).to(dtype) > 0
        assert 2.0 ** (overflow - 1) <= info.max < 2.0**overflow


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**-9])
def test_shares_are_those_of_rounding(name, scale):
    spread = torch.randn(50_000) * torch.empty(50_000).uniform_(-45, 22).exp2()
    for values in (spread, around(EDGES)):
        actual = report_of(values).shares("gradients", "layer", scale=scale, format=name)
        to_zero, subnormal, overflow = rounded_shares(values, DTYPES[name], scale)
        assert (actual.to_zero, actual.overflow) == pytest.approx((to_zero, overflow))
        # A value within 2^-11 of a normal number may become one.
        assert actual.subnormal == pytest.approx(subnormal, abs=1e-4)


@pytest.mark.parametrize("exponent", [-26, -25, -24, -15, -14, 15, 16])
def test_powers_of_two_lie_where_fp16_puts_them(exponent):
    value = torch.tensor([2.0**exponent])
    shares = report_of(value).shares("gradients")
    half = value.half()
    assert shares.to_zero == (half == 0).item()
    assert shares.overflow == half.isinf().item()
    assert shares.subnormal == (0 < half < 2.0**-14).item()
    assert shares.smallest == shares.largest == exponent


def test_zeros_and_what_is_not_finite_are_counted_apart():
    values = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 3.0, 1e6, 1e-9])
    shares = report_of(values).shares("gradients")
    assert (shares.zeros, shares.not_finite) == (2 / 8, 3 / 8)
    assert (shares.to_zero, shares.overflow) == (1 / 3, 1 / 3)
    assert (shares.smallest, shares.largest) == (-30, 19)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_and_no_value_at_all(dtype):
    values = torch.tensor([0.3, -5.0, 0.0]).to(dtype)
    assert count_exponents(values).sum() == 3
    assert report_of(values).shares("gradients").largest == 2
    empty = report_of(values[:0])
    assert empty.shares("gradients")[:4] == (None, None, 0, 0)
    assert "gradients" in str(empty) and "loss scale" not in str(empty)


def test_float64_is_not_cut_to_the_range_of_float32():
    shares = report_of(torch.tensor([1e-60, 1e60], dtype=torch.float64)).shares("gradients")
    assert (shares.zeros, shares.to_zero, shares.overflow) == (0, 0.5, 0.5)


def test_large_tensors_are_counted_in_parts(monkeypatch):
    values = torch.randn(1000)
    whole = count_exponents(values)
    monkeypatch.setattr("pconv.ranges._PART", 64)
    assert torch.equal(count_exponents(values), whole)


def test_a_histogram_counts_what_lies_between_powers_of_two():
    values = torch.tensor([1.0, 1.5, 2.0, 3.0, 3.99999, 0.25])
    log2, counts = report_of(values).histogram("gradients")
    found = {int(k): int(n) for k, n in zip(log2, counts, strict=True) if n}
    assert found == {0: 2, 1: 2, 2: 1, -2: 1}  # 3.99999 is 4 in FP16
    log2, counts = report_of(values).histogram("gradients", "layer", scale=8.0)
    assert log2[counts.nonzero()].tolist() == [1, 3, 4, 5]


def test_the_loss_scale_divides_gradients_and_nothing_else():
    for kind, exponent in (("gradients", 10), ("weight_gradients", 10), ("activations", 26)):
        report = report_of(torch.tensor([2.0**26]), kind, loss_scale=65536.0)
        assert report.shares(kind).largest == exponent


def test_loss_scales():
    report = report_of(torch.tensor([2.0**-30] + [2.0**3] * 9))
    assert report.loss_scales() == (2.0**6, 2.0**12)
    assert rounded_shares(torch.tensor([2.0**-30]), torch.float16, 2.0**6)[0] == 0
    assert rounded_shares(torch.tensor([2.0**-30]), torch.float16, 2.0**5)[0] == 1
    assert rounded_shares(torch.tensor([2.0**3]), torch.float16, 2.0**12)[2] == 0
    assert rounded_shares(torch.tensor([2.0**3]), torch.float16, 2.0**13)[2] == 1
    *_, at_most, at_least = str(report).splitlines()
    assert at_most.endswith("at most 2^12, or gradients overflow")
    assert at_least.strip() == "at least 2^6, or over 0.1 % of a layer's gradients become 0"
    report.record("gradients", "tiny", torch.tensor([2.0**-60]))
    assert report.loss_scales() == (None, 2.0**12)
    assert "at which 100.0 % of the gradients of tiny become 0" in str(report)
    assert report.loss_scales(tolerance=1.0) == (1.0, 2.0**12)
    assert report_of(torch.tensor([2.0**20])).loss_scales() == (2.0**-5, 2.0**-5)


def test_values_add_up_over_calls_and_layers():
    a, b = torch.randn(300), torch.randn(200) * 2.0**-20
    one = report_of(torch.cat((a, b)))
    two = RangeReport()
    two.record("gradients", "layer", a)
    two.record("gradients", "layer", b)
    assert one.shares("gradients") == two.shares("gradients")
    three = RangeReport()
    three.record("gradients", "a", a)
    three.record("gradients", "b", b)
    assert three.shares("gradients") == one.shares("gradients")
    three.record("gradients", "b", a)  # a report can be read, and go on
    assert three.shares("gradients", "b") == one.shares("gradients")


def test_the_first_in_time_that_was_not_finite():
    report = RangeReport()
    good, bad = torch.ones(3), torch.tensor([1.0, math.nan])
    assert report.first_not_finite() is None
    for layer, values in (("a", good), ("b", good), ("c", good), ("c", bad), ("a", bad)):
        report.record("activations", layer, values)
    assert report.first_not_finite() == ("activations", "c")
    assert "not finite first: activations of c" in str(report)


def test_what_is_printed():
    report = RangeReport()
    assert "no layer of the model ran" in str(report)
    report.record("activations", "first", torch.tensor([1.0, 0.0]))
    report.record("activations", "second", torch.tensor([1e6, 1e-9, 1e-6, 1.0]))
    assert "loss scale" not in str(report)
    *_, names, first, second = report.table("activations").splitlines()
    expected = "activations smallest largest zeros inf, NaN to 0 subnormal to inf to 0 to inf"
    assert names.split() == expected.split()
    assert first.split() == ["first", "2^0", "2^0", "50.0", "%"] + ["0"] * 6
    row = "second 2^-30 2^19 0 0 25.0 % 25.0 % 25.0 % 0 0"
    assert second.split() == row.split()
    assert len({len(line.rstrip()) for line in (names, first, second)}) == 1


def test_refusals():
    for scale in (0, -2.0, 3.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="is not a power of two"):
            RangeReport(scale)
    report = report_of(torch.ones(2), "activations")
    for call in (report.table, report.plot, report.layers, report.histogram, report.shares):
        with pytest.raises(ValueError, match="unknown kind 'bias'; expected one of: activations"):
            call("bias")
    with pytest.raises(ValueError, match="of layer 'b' were recorded; recorded: layer"):
        report.shares("activations", "b")
    with pytest.raises(ValueError, match="unknown format 'fp8'"):
        report.shares("activations", format="fp8")
    with pytest.raises(ValueError, match=r"call backward\(\) inside"):
        report.loss_scales()
    with pytest.raises(ValueError, match="is not a power of two"):
        report.shares("activations", scale=10)


def test_the_picture_shows_the_histograms_and_what_is_lost():
    from matplotlib.figure import Figure

    report = RangeReport()
    report.record("gradients", "lower", torch.tensor([2.0**-30, 2.0**-20, 2.0**-20, 2.0**17]))
    report.record("gradients", "upper", torch.tensor([1.0]))
    axis = report.plot("gradients", axis=Figure().subplots())
    bars = [patch for patch in axis.patches if patch.get_width() == 1]
    assert sorted(bar.get_x() for bar in bars) == [-30, -20, 0, 17]
    assert {bar.get_facecolor() for bar in bars if bar.get_x() in (-30, 17)}.isdisjoint(
        bar.get_facecolor() for bar in bars if bar.get_x() in (-20, 0)
    )
    words = [text.get_text() for text in axis.texts]
    assert "25.0 % lost, 25.0 % inf" in words and "normal FP16 numbers" in words
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "upper",
        "lower",
    ]  # from below
    assert "BF16" in axis.get_title()
    one = report.plot("gradients", scale=2.0**4, layers=["upper"], axis=Figure().subplots())
    assert one.get_xlabel() == "log2 |gradient × 2^4|"
    assert [bar.get_x() for bar in one.patches if bar.get_width() == 1] == [4]


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, pconv.diagnostics; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_counts_are_read_in_one_transfer():
    report = RangeReport()
    for layer in "abcdef":
        report.record("gradients", layer, torch.randn(10))
    report.shares("gradients")
    before = report._histograms()
    report.table("gradients")
    assert report._histograms() is before
    assert all(isinstance(row, np.ndarray) for row in before.values())
