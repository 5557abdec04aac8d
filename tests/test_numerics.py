"""The figures and the recorded table of notebook 06, and the facts they stand on."""

import matplotlib.pyplot as plt
import pytest
import torch
from course import numerics
from PIL import Image


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_the_table_has_both_devices_and_marks_what_differs():
    lines = numerics.recorded_table().splitlines()
    head, rows = lines[0], [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert "CPU:" in head and "GPU:" in head and len({len(row) for row in rows}) == 1
    for row in rows:
        assert all(row[1:]) and (row[1] != row[2]) == row[1].startswith("**")
    differing = [row for row in rows if row[1] != row[2]]
    assert rows[: len(differing)] == differing and "`9 / x`" in differing[0][0]
    assert ["**NaN**", "**0**"] in [row[1:] for row in differing]


def test_the_table_has_every_operation_of_the_records():
    table = numerics.recorded_table()
    for device in ("cpu", "cuda"):
        record = numerics.read_record(device)
        assert record["device"]["name"] in table
        operations = [row["fact"] for row in record["rows"] if row["fact"].startswith("autocast: ")]
        assert len(operations) > 30
        assert all(f"`{fact.removeprefix('autocast: ')}`" in table for fact in operations)


@pytest.mark.parametrize("size, error", [(112, 0.49), (224, -4.30), (448, -23.44), (1024, -100.0)])
def test_the_error_of_one_over_c_h_w(size, error):
    n = torch.tensor(64.0 * size**2, dtype=torch.float64)
    assert numerics.inverse_error(n, torch.float16).item() == pytest.approx(error, abs=0.005)
    assert abs(numerics.inverse_error(n, torch.bfloat16).item()) < 0.5


def test_one_over_n_is_exact_for_powers_of_two_and_zero_from_2_to_the_25():
    powers = torch.arange(25).double().exp2()
    assert (numerics.inverse_error(powers, torch.float16) == 0).all()
    assert numerics.inverse_error(torch.tensor(2.0**25).double(), torch.float16) == -100
    # just below, it is nearly twice too large
    assert numerics.inverse_error(torch.tensor(2.0**25 - 2**10).double(), torch.float16) > 99


@pytest.mark.parametrize(
    "shape", [(64, 448, 448), (3, 16, 16), (64, 1024, 1024), (512, 1040, 1040)]
)
def test_draw_inverse_error_has_a_dot_and_its_label(shape):
    axis = numerics.draw_inverse_error([shape])
    axis.figure.canvas.draw()
    assert any("·".join(map(str, shape)) in text.get_text() for text in axis.texts)


def test_the_scalar_of_an_addition_is_rounded_on_a_cpu_and_that_of_a_product_is_not():
    half = torch.tensor([-1.0, 2.0**-10, 2.0**15]).half()
    assert (half[:1] + (1 + 2**-12)).item() == 0  # exactly it is 2^-12
    assert (half[1:2] * 2**17).item() == 2.0**7  # 2^17 is infinite in FP16
    assert (half[2:] / 2**20).item() == 2.0**-5


def test_draw_epsilons_and_eight_bit_errors():
    eps = torch.logspace(-6, 0, 50)
    top, bottom = numerics.draw_epsilons(eps, 100 * eps, {"3x3": 1e-4, "7x7": 1e-3})
    assert [text.get_text() for text in bottom.get_yticklabels()] == ["3x3", "7x7"]
    assert len(top.lines) == 1 + 2 * 2
    errors = {("e4m3", True): [3.0, 3.0], ("e4m3", False): [100.0, 3.0]}
    axis = numerics.draw_eight_bit_errors(torch.tensor([1.0, 2.0]), errors)
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["e4m3, one scale per tensor", "e4m3, as it is"]


def test_draw_steps_shows_all_three_formats():
    numbers = {
        "fp16": torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).double(),
        "bf16": torch.arange(0x7F80, dtype=torch.int16).view(torch.bfloat16).double(),
    }
    legend = numerics.draw_steps(numbers).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["BF16", "FP16", "FP32"]


def test_the_title_picture_is_a_small_png(tmp_path):
    photo = torch.rand(1, 3, 22, 31)
    numerics.draw_title(photo, photo.half(), tmp_path / "title.png")
    assert Image.open(tmp_path / "title.png").format == "PNG"
    committed = numerics.RESULTS.parents[1] / "notebooks" / "images" / "06_half_precision.png"
    assert committed.stat().st_size <= 150_000
