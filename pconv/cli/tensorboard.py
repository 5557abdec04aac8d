"""Curves and pictures of a training for TensorBoard: `pconv train --log-dir`."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from pconv.history import History
from pconv.holes import random_holes
from pconv.inpainting import inpaint
from pconv.metrics import average, compare, damaged
from pconv.photos import bundled_photos, center_crop
from pconv.train import Trainer

_GROUPS = {"samples_per_second": "speed", "loss_scale": "amp", "skipped_steps": "amp"}
_MEASURED = ("l1", "psnr", "psnr_holes", "held_out_ssim", "ssim_holes")


class TensorBoardHistory(History):
    """A history that also writes TensorBoard's event files.

    Args:
        folder: where to.
        state: of the checkpoint that is resumed, whose later events are hidden; None for none.
    """

    def __init__(self, folder: Path, state: dict | None):
        super().__init__()
        resumed_at = None if state is None else state["step"] + 1
        self.writer = SummaryWriter(str(folder), purge_step=resumed_at)

    def record(self, step: int, **values: float) -> None:
        super().record(step, **values)
        for name, value in values.items():
            group = _GROUPS.get(name, "held out" if name in _MEASURED else "loss")
            self.writer.add_scalar(f"{group}/{name}", value, step)
        self.writer.flush()


class HeldOutPhotos:
    """Measures two photos that nothing is trained on, and shows them: always with the same holes.

    To be called with the model, in eval mode. Returns the means of `compare`.
    """

    def __init__(self, trainer: Trainer, size: int):
        self.trainer = trainer
        rng = np.random.default_rng(0)
        photos = bundled_photos(held_out=True).values()
        self.photos = [center_crop(photo, size) for photo in photos]
        self.holes = [random_holes(size, size, (0.1, 0.3), rng) for _ in self.photos]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        rows, values = [], []
        for photo, holes in zip(self.photos, self.holes):
            filled = inpaint(model, photo, holes)
            rows.append(np.concatenate((damaged(photo, holes), filled, photo), 1))
            values.append(compare(filled, photo, holes))
        picture = torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1)  # (3, H, W)
        writer = self.trainer.history.writer
        writer.add_image("held out: damaged, filled, photo", picture, self.trainer.step)
        means = average(values)
        means["held_out_ssim"] = means.pop("ssim")  # the loss has a term of that name
        return means
