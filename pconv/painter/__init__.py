"""MaskPainter: paint over what should go, in a notebook; every stroke is inpainted at once.

Needs anywidget.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from pconv.photos import as_photo


class MaskPainter(anywidget.AnyWidget):
    """A photo to paint holes on, with brush, eraser, undo and redo.

    `holes`, bool (H, W), True = painted, begins as a bar across the middle and can be set. `mask`
    is its inverse, a float32 tensor (1, 1, H, W), 1 = valid. `result` is what `on_change` returned
    last, or None.

    Args:
        photo: uint8 (H, W, 3), a Pillow image or a path.
        brush: its diameter in pixels of the photo.
        on_change: a function (photo, holes) -> restored photo, uint8 (H, W, 3), called after every
            stroke. Its result is shown beside the photo, with the time it took.

    Raises:
        FileNotFoundError, TypeError, ValueError: as `as_photo`; ValueError also for a brush below
            one pixel, and for holes or a result of another shape.
    """

    _esm = Path(__file__).parent / "painter.js"
    _css = Path(__file__).parent / "painter.css"
    _photo = traitlets.Bytes().tag(sync=True)  # PNG
    _shape = traitlets.List().tag(sync=True)  # height, width
    # The holes, eight per byte. Any, as the browser's come as a memoryview. They are not echoed.
    _bits = traitlets.Any().tag(sync=True, echo_update=False)
    # PNG, transparent where it equals the photo: small and exact.
    _result = traitlets.Bytes().tag(sync=True)
    _status = traitlets.Unicode().tag(sync=True)
    brush = traitlets.Int(24, min=1).tag(sync=True)

    def __init__(
        self,
        photo,
        brush: int = 24,
        on_change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ):
        if brush < 1:
            raise ValueError(f"brush={brush}: expected a diameter of at least 1 pixel")
        self.photo = as_photo(photo)
        self.result = None
        self._on_change = on_change
        height, width = self.photo.shape[:2]
        super().__init__(_photo=_png(self.photo), _shape=[height, width], brush=brush)
        holes = np.zeros((height, width), bool)
        holes[height * 9 // 20 : height * 11 // 20 + 1, width // 4 : width * 3 // 4 + 1] = True
        self.holes = holes

    def __repr__(self) -> str:
        height, width = self._shape
        return f"MaskPainter({width}×{height} pixels, {self.holes.mean():.1%} painted)"

    @property
    def holes(self) -> np.ndarray:
        height, width = self._shape
        bits = np.unpackbits(np.frombuffer(self._bits, np.uint8), count=height * width)
        return bits.view(bool).reshape(height, width)

    @holes.setter
    def holes(self, holes: np.ndarray) -> None:
        holes = np.asarray(holes)
        if holes.dtype != bool or list(holes.shape) != self._shape:
            raise ValueError(
                f"holes are {holes.dtype} {holes.shape}; expected bool {tuple(self._shape)}"
            )
        self._bits = np.packbits(holes).tobytes()

    @property
    def mask(self) -> Tensor:
        return torch.from_numpy(~self.holes)[None, None].float()

    @traitlets.observe("_bits")
    def _fill(self, change) -> None:
        if self._on_change is None:
            return
        self._status = "…"
        start = time.perf_counter()
        try:
            result = np.asarray(self._on_change(self.photo, self.holes))
            if result.shape != self.photo.shape or result.dtype != np.uint8:
                actual = f"{result.dtype} {result.shape}"
                raise ValueError(f"on_change returned {actual}, not uint8 {self.photo.shape}")
        except Exception as error:
            # Shown here, as a stroke has no cell in which the error would be seen.
            self._status = f"{type(error).__name__}: {error}"
            raise
        self.result = result
        self._status = f"{time.perf_counter() - start:.2f} s"
        changed = (result != self.photo).any(2, keepdims=True)
        opaque = np.concatenate((result, np.full_like(result[:, :, :1], 255)), 2)  # (H, W, 4)
        self._result = _png(np.where(changed, opaque, 0))

    def sliders(self) -> ipywidgets.Widget:
        """Plain sliders for an elliptic hole, for a frontend that does not show the painter."""
        starts = {"row": 50, "column": 50, "height": 10, "width": 50}
        sliders = {
            name: ipywidgets.FloatSlider(
                value=value, min=0, max=100, step=1, description=f"{name} (%)"
            )
            for name, value in starts.items()
        }
        picture = ipywidgets.Image(format="png")

        def draw(change=None) -> None:
            row, column, height, width = (slider.value / 100 for slider in sliders.values())
            rows, columns = np.ogrid[: self._shape[0], : self._shape[1]]
            down = (rows + 0.5) / self._shape[0] - row
            right = (columns + 0.5) / self._shape[1] - column
            self.holes = (2 * down * width) ** 2 + (2 * right * height) ** 2 < (height * width) ** 2
            white = np.where(self.holes[:, :, None], np.uint8(255), self.photo)
            shown = [white] if self.result is None else [white, self.result]
            picture.value = _png(np.concatenate(shown, 1))

        for slider in sliders.values():
            slider.observe(draw, "value")
        draw()
        return ipywidgets.VBox([*sliders.values(), picture])


def _png(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "png", compress_level=1)
    return buffer.getvalue()
