"""The painter in the kernel: what the browser sends, what is sent there, errors."""

import io
import json

import numpy as np
import pytest
import torch
from odd_photos import BAD, GOOD
from PIL import Image

from pconv import bundled_photos, inpaint
from pconv.painter import MaskPainter

PHOTO = bundled_photos(held_out=True)["coffee"][:37, :53]


def painted(height=37, width=53) -> np.ndarray:
    return np.random.default_rng(0).random((height, width)) < 0.3


def from_browser(painter: MaskPainter, holes: np.ndarray) -> None:
    """As the frontend does: a buffer of bits, which arrives as a memoryview."""
    painter.set_state({"_bits": memoryview(np.packbits(holes).tobytes())})


def test_it_begins_with_a_hole_in_the_middle():
    holes = MaskPainter(PHOTO).holes
    assert holes.dtype == bool and holes.shape == (37, 53) and holes[18, 26]
    assert 0 < holes.mean() < 0.2 and not holes[[0, -1]].any() and not holes[:, [0, -1]].any()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 53), (3, 1000)])
def test_holes_go_to_the_browser_and_back(size):
    painter, holes = MaskPainter(np.zeros((*size, 3), np.uint8)), painted(*size)
    painter.holes = holes
    assert isinstance(painter._bits, bytes) and len(painter._bits) == -(-holes.size // 8)
    assert np.array_equal(painter.holes, holes)
    from_browser(painter, ~holes)
    assert np.array_equal(painter.holes, ~holes)
    assert painter.mask.dtype == torch.float32 and painter.mask.shape == (1, 1, *size)
    assert torch.equal(painter.mask[0, 0], torch.from_numpy(holes).float())


def test_every_stroke_is_inpainted_once():
    seen = []

    def fill(photo, holes):
        seen.append((photo, holes))
        return np.where(holes[:, :, None], np.uint8(7), photo)

    painter = MaskPainter(PHOTO, on_change=fill)
    assert len(seen) == 1  # the hole it begins with
    from_browser(painter, painted())
    from_browser(painter, painted())  # nothing new
    assert len(seen) == 2
    assert np.array_equal(seen[1][0], PHOTO)
    assert np.array_equal(seen[1][1], painted())
    assert (painter.result[painted()] == 7).all()
    assert np.array_equal(painter.result[~painted()], PHOTO[~painted()])
    shown = np.asarray(Image.open(io.BytesIO(painter._result)))  # laid over the photo
    assert np.array_equal(np.where(shown[:, :, 3:] == 255, shown[:, :, :3], PHOTO), painter.result)
    assert not shown[~painted()].any()
    assert painter._status.endswith(" s")


def test_an_error_is_shown_in_the_widget_and_raised():
    def fail(photo, holes):
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        MaskPainter(PHOTO, on_change=fail)
    painter = MaskPainter(PHOTO)
    painter._on_change = fail
    with pytest.raises(RuntimeError, match="no network"):
        painter.holes = painted()
    assert painter._status == "RuntimeError: no network" and painter.result is None


@pytest.mark.parametrize(
    ("holes", "words"),
    [
        (np.zeros((37, 53), np.uint8), r"uint8 \(37, 53\); expected bool \(37, 53\)"),
        (np.zeros((53, 37), bool), r"bool \(53, 37\)"),
    ],
)
def test_other_holes_are_refused(holes, words):
    painter = MaskPainter(PHOTO)
    before = painter.holes
    with pytest.raises(ValueError, match=words):
        painter.holes = holes
    assert np.array_equal(painter.holes, before)


def test_a_brush_of_no_size_is_refused():
    with pytest.raises(ValueError, match="brush=0"):
        MaskPainter(PHOTO, brush=0)


def test_two_painters_are_independent_and_say_little():
    one, two = MaskPainter(PHOTO), MaskPainter(PHOTO)
    one.holes = painted()
    assert not np.array_equal(one.holes, two.holes)
    assert repr(one) == f"MaskPainter(53×37 pixels, {painted().mean():.1%} painted)"


def test_sliders_draw_an_ellipse_where_they_say():
    painter = MaskPainter(
        PHOTO, on_change=lambda photo, holes: np.where(holes[:, :, None], np.uint8(7), photo)
    )
    *sliders, picture = painter.sliders().children
    for slider, value in zip(sliders, (25, 75, 20, 40), strict=True):
        slider.value = value
    rows, columns = np.nonzero(painter.holes)
    assert abs((rows + 0.5).mean() / 37 - 0.25) < 0.02
    assert abs((columns + 0.5).mean() / 53 - 0.75) < 0.02
    assert abs(np.ptp(rows) + 1 - 0.2 * 37) < 2 and abs(np.ptp(columns) + 1 - 0.4 * 53) < 2
    shown = np.asarray(Image.open(io.BytesIO(picture.value)))
    white = np.where(painter.holes[:, :, None], np.uint8(255), PHOTO)
    assert np.array_equal(shown, np.concatenate((white, painter.result), 1))


def watch_messages(painter: MaskPainter, monkeypatch) -> list[tuple[set, int]]:
    """Of every message to the browser: the names of what it holds, and its bytes."""
    messages = []

    def publish(message_type, data=None, metadata=None, buffers=None, **keys):
        state = data["state"]
        names = {*state, *(path[0] for path in data["buffer_paths"])}
        size = len(json.dumps(state)) + sum(len(memoryview(part)) for part in buffers or ())
        messages.append((names, size))

    monkeypatch.setattr(painter.comm, "publish_msg", publish)
    return messages


def test_a_stroke_on_a_large_photo_sends_nothing_back_and_memory_stays(monkeypatch):
    painter, holes = MaskPainter(np.zeros((1024, 1024, 3), np.uint8)), painted(1024, 1024)
    messages = watch_messages(painter, monkeypatch)
    for stroke in range(200):
        holes[stroke] ^= True
        from_browser(painter, holes)
        assert np.array_equal(painter.holes, holes)
    assert messages == []
    assert len(painter._bits) == 1024 * 1024 // 8


def test_a_stroke_is_filled_once_and_sends_only_what_it_changed(monkeypatch):
    photo = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    calls = []

    def fill(photo, holes):
        calls.append(int(holes.sum()))
        return np.where(holes[:, :, None], np.uint8(7), photo)

    painter = MaskPainter(photo, on_change=fill)
    messages, holes = watch_messages(painter, monkeypatch), np.zeros((1024, 1024), bool)
    for stroke in range(5):
        calls.clear(), messages.clear()
        holes[100 * stroke, 200:600] = True
        from_browser(painter, holes)
        assert calls == [400 * (stroke + 1)]
        assert [names for names, _ in messages] == [{"_status"}, {"_status"}, {"_result"}]
        assert sum(size for _, size in messages) < len(painter._photo) / 100


def test_it_inpaints_with_the_package(tmp_path):
    import pconv

    model = pconv.PConvUNet(widths=(4,))
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    painter = MaskPainter(
        tmp_path / "photo.png", on_change=lambda photo, holes: inpaint(model, photo, holes)
    )
    assert np.array_equal(painter.result, inpaint(model, PHOTO, painter.holes))


@pytest.mark.parametrize("result", [np.zeros((37, 53)), np.zeros((53, 37, 3), np.uint8), None])
def test_a_result_that_is_no_such_photo_is_refused(result):
    with pytest.raises(ValueError, match=r"not uint8 \(37, 53, 3\)"):
        MaskPainter(PHOTO, on_change=lambda photo, holes: result)


def test_the_painter_takes_the_same_photos(tmp_path):
    for name in ("rgba.png", "nan and inf.tif", "one pixel.png"):
        (tmp_path / name).write_bytes(GOOD[name][0])
        assert np.array_equal(MaskPainter(tmp_path / name).photo, GOOD[name][1])
    (tmp_path / "bomb.png").write_bytes(BAD["bomb.png"])
    with pytest.raises(ValueError, match=r"bomb\.png is not a readable photo"):
        MaskPainter(tmp_path / "bomb.png")
