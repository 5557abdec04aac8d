"""The switches of notebook 06, flipped with a mouse in JupyterLab."""

import pytest

FLIPPER = "from course import bits\nflipper = bits.BitFlipper(1.0)\nflipper"


@pytest.fixture
def flipper(notebook, lab):
    lab.write("flipper.ipynb", FLIPPER)
    page = notebook("flipper.ipynb")
    page.run()
    return page


def test_a_flipped_bit_changes_the_label_at_once(flipper):
    cell = flipper.show("from course import bits")
    switches = cell.locator(".widget-toggle-button")
    assert switches.count() == 16
    assert "".join(switches.all_inner_texts()) == "0011110000000000"
    switches.nth(1).click()
    cell.get_by_text("infinity").wait_for()
    switches.nth(15).click()
    cell.get_by_text("NaN", exact=True).first.wait_for()
    assert flipper.ask("flipper.pattern") == 0b0_11111_0000000001
    for index in range(2, 6):
        switches.nth(index).click()
    switches.nth(1).click()
    cell.get_by_text("subnormal").wait_for()
    cell.get_by_text("5.96046e-08").wait_for()
    cell.get_by_role("button", name="previous pattern").click()
    cell.get_by_text("zero").wait_for()
    assert "".join(switches.all_inner_texts()) == "0" * 16
    colors = {
        index: switches.nth(index).evaluate("one => getComputedStyle(one).backgroundColor")
        for index in (0, 1, 6)
    }
    assert len(set(colors.values())) == 3  # a color per field
