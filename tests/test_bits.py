"""Patterns of bits are read as PyTorch reads them, and by their formulas; they can be flipped."""

import math
import re

import matplotlib.pyplot as plt
import pytest
import torch
from course import bits
from matplotlib.patches import Rectangle


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def value_of(formula):
    """Computes the formula of a number, which is written for TeX."""
    part = re.search(r"\\frac\{(\d+)\}\{(\d+)\}", formula)
    power = int(re.search(r"2\^\{(-?\d+)\}", formula)[1])
    factor = int(part[1]) / int(part[2]) + ("1+" in formula)
    return (-1 if formula.startswith("-") else 1) * factor * 2.0**power


@pytest.mark.parametrize("name", ["fp16", "bf16", "e5m2", "e4m3"])
def test_every_pattern_is_read_as_by_torch_and_by_its_formula(name):
    kind = bits.FORMATS[name]
    expected = torch.arange(2**kind.bits).to(kind.integers).view(kind.dtype).double().tolist()
    info = torch.finfo(kind.dtype)
    for pattern in range(0, 2**kind.bits, 1 if kind.bits == 8 else 7):
        number = bits.read(pattern, name)
        assert number.value == expected[pattern] or math.isnan(number.value)
        assert math.isnan(number.value) == math.isnan(expected[pattern]) == (number.kind == "NaN")
        assert (number.kind == "infinity") == math.isinf(number.value)
        assert (number.kind == "zero") == (number.value == 0)
        if number.kind in ("normal", "subnormal"):
            assert (number.kind == "normal") == (abs(number.value) >= info.smallest_normal)
        if math.isfinite(number.value):
            assert value_of(number.formula) == number.value
            assert bits.stored(number.value, name) == pattern or number.value == 0
        else:
            assert number.formula == ""


def test_the_fields_are_1_5_10_and_1_8_7_and_1_8_23():
    for name, sizes in {"fp16": (1, 5, 10), "bf16": (1, 8, 7), "fp32": (1, 8, 23)}.items():
        fields = bits.read(bits.stored(0.1, name), name).fields
        assert tuple(map(len, fields.values())) == sizes
    assert list(fields) == ["sign", "exponent", "fraction"]
    # BF16 is the first half of FP32
    assert bits.stored(1.5, "bf16") == bits.stored(1.5, "fp32") >> 16


def test_a_value_is_stored_as_its_nearest_number():
    assert bits.read(bits.stored(1e-8, "fp16"), "fp16").kind == "zero"
    assert bits.read(bits.stored(65519.0, "fp16"), "fp16").value == 65504
    assert bits.read(bits.stored(65520.0, "fp16"), "fp16").kind == "infinity"
    assert bits.read(bits.stored(-0.1, "fp16"), "fp16").text == "-0.0999756"
    assert bits.read(bits.stored(math.nan, "bf16"), "bf16").text == "NaN"


def test_draw_bits_has_a_square_per_bit_in_the_color_of_its_field():
    axis = bits.draw_bits([("one", bits.stored(1, "fp16"), "fp16")])
    squares = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    assert len(squares) == 16
    written = [text.get_text() for text in axis.texts]
    assert written.count("0") + written.count("1") - 1 == 16  # the value is 1, too
    assert {"one", "sign", "exponent", "fraction", "normal"} <= set(written)
    axis.figure.canvas.draw()  # its formulas are formulas


def test_the_flipper_starts_at_one_and_shows_what_a_flip_makes():
    flipper = bits.BitFlipper(1.0)
    assert len(flipper.toggles) == 16 and flipper.pattern == 0b0_01111_0000000000
    assert "<b>1</b>" in flipper.label.value and "normal" in flipper.label.value
    flipper.toggles[1].value = True  # as a click does
    assert "<b>infinity</b>" in flipper.label.value
    flipper.toggles[15].value = True
    assert "<b>NaN</b>" in flipper.label.value
    flipper.set_pattern(1)
    assert "subnormal" in flipper.label.value and "5.96046e-08" in flipper.label.value
    assert [toggle.description for toggle in flipper.toggles] == ["0"] * 15 + ["1"]
    assert repr(flipper) == "BitFlipper(0 00000 0000000001: 5.96046e-08, subnormal)"


def test_the_flipper_counts_up_and_down():
    flipper = bits.BitFlipper(65504.0)
    down, up = flipper.children[2].children
    up.click()
    assert flipper.pattern == 0x7C00 and "infinity" in flipper.label.value
    down.click()
    assert flipper.pattern == 0x7BFF and "<b>65504</b>" in flipper.label.value
    flipper.set_pattern(0)
    down.click()
    assert flipper.pattern == 0xFFFF


@pytest.mark.parametrize("name", ["bf16", "fp32", "e4m3", "e5m2"])
def test_the_flipper_flips_other_formats(name):
    flipper = bits.BitFlipper(1.5, name)
    assert len(flipper.toggles) == bits.FORMATS[name].bits
    assert "<b>1.5</b> = 2<sup>0</sup> · (1 + " in flipper.label.value.replace("</span>", "")


def test_the_label_holds_plain_html_for_every_kind():
    flipper = bits.BitFlipper()
    for pattern in (0, 1, 0x3C00, 0x7C00, 0x7E00, 0x8001, 0xFC00, 0xFFFF):
        flipper.set_pattern(pattern)
        text = flipper.label.value
        assert text.count("<sup>") == text.count("</sup>")
        assert not set("\\{}") & set(text)
