"""The training step, with the AMP lines of the talk, and the loop around it."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pconv.history import History
from pconv.losses import InpaintingLoss, LossTerms
from pconv.precision import Precision, get_precision


def training_step(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    image: Tensor,
    mask: Tensor,
) -> LossTerms:
    """One step of training on image (N, 3, H, W) and mask (N, 1, H, W); the lines marked AMP are all that AMP adds."""
    optimizer.zero_grad()
    with precision.context(image.device.type):  # AMP: convolutions and products in half precision
        output = model(image.to(precision.parameters), mask)
        terms = loss(output, image, mask)
    scaler.scale(terms.total).backward()  # AMP: scaled, so that small gradients do not round to 0
    scaler.step(optimizer)  # AMP: unscaled first; skipped where a gradient overflowed
    scaler.update()  # AMP: the next scale
    return terms


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" is the GPU where there is one. Raises ValueError for a device this machine does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N") from error
    if picked.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"no device {device!r} on this machine: torch finds {torch.cuda.device_count()} CUDA GPU(s)")
    return picked


class Trainer:
    """Trains a model: `Trainer(model, loss, precision="bf16").fit(batches, steps) -> History`.

    model, loss: moved to the device, the model in channels-last memory. precision: a name of `pconv.precision`.
    lr: the learning rate of Adam. Raises ValueError for a precision or a device this machine cannot do.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: InpaintingLoss,
        precision: str = "bf16",
        device: str | torch.device = "auto",
        lr: float = 2e-4,
        read_every: int = 10,
    ):
        self.device = pick_device(str(device))
        self.precision = get_precision(precision, self.device)
        self.model = model.to(self.device, self.precision.parameters, memory_format=torch.channels_last)
        self.loss = loss.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        self.scaler = self.precision.scaler(self.device.type)
        self.read_every = read_every
        self.history = History()
        self.step = 0

    def fit(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        steps: int,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        validate_every: int = 100,
        bar: tqdm | None = None,
    ) -> History:
        """Trains for `steps` more steps on (image (N, 3, H, W), mask (N, 1, H, W)) pairs.

        Every `read_every` steps the loss terms and samples/s are read from the device into the history; in between the
        device is never waited for. validate: called with the model in eval mode, returns what to record. bar: a
        progress bar to move on; one of its own by default.
        """
        self.model.train()
        batches, since, samples, last = iter(batches), time.perf_counter(), 0, self.step + steps
        own = tqdm(total=steps, desc=self.precision.name, unit="step", dynamic_ncols=True) if bar is None else None
        bar = own if bar is None else bar
        with self.precision.math_mode(), own or nullcontext():
            for _ in range(steps):
                image, mask = (t.to(self.device, non_blocking=True) for t in next(batches))
                terms = training_step(self.model, self.loss, self.optimizer, self.scaler, self.precision, image, mask)
                self.step += 1
                samples += len(image)
                bar.update()
                if self.step % self.read_every == 0 or self.step == last:
                    values = torch.stack(list(terms)).tolist()  # the one time the device is waited for
                    rate = samples / (time.perf_counter() - since)
                    self.history.record(
                        self.step,
                        **dict(zip(LossTerms._fields, values, strict=True)),
                        samples_per_second=rate,
                        **({"loss_scale": self.scaler.get_scale()} if self.precision.scales else {}),
                    )
                    bar.set_postfix_str(f"{self.precision.name}: loss {values[-1]:.3f}, {rate:.1f} samples/s")
                    since, samples = time.perf_counter(), 0
                if validate is not None and (self.step % validate_every == 0 or self.step == last):
                    self.history.record(self.step, **self._validated(validate))
                    since = time.perf_counter()
        return self.history

    def _validated(self, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        self.model.eval()
        try:
            with torch.inference_mode():
                return validate(self.model)
        finally:
            self.model.train()
