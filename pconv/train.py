"""The training step, with the AMP lines of the talk, and the loop around it."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pconv import distributed
from pconv.averaging import MovingAverage
from pconv.checkpoint import get_training_state, save_checkpoint, set_training_state
from pconv.checks import check_training_images
from pconv.devices import resolve_device
from pconv.diagnostics import SkipCounter, count_skipped_steps, find_non_finite
from pconv.history import History, Throughput
from pconv.losses import InpaintingLoss, LossTerms
from pconv.precision import Precision, get_precision
from pconv.signals import defer_sigint
from pconv.unet import PConvUNet


def training_step(
    model: nn.Module,
    loss: InpaintingLoss,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: Precision,
    images: Tensor,
    masks: Tensor,
    *,
    grad_accum_steps: int = 1,
    max_grad_norm: float | None = None,
) -> LossTerms:
    """One step on images (N, 3, H, W) in [0, 1] and masks, bool (N, 1, H, W), True = valid.

    The lines marked AMP are all that mixed precision adds. grad_accum_steps: in how many parts, one
    after the other, the batch is computed. max_grad_norm: a longer gradient is shortened to it.
    """
    optimizer.zero_grad()
    parts = []
    chunks = zip(images.chunk(grad_accum_steps), masks.chunk(grad_accum_steps), strict=True)
    for image, mask in chunks:
        with precision.context(image.device.type):  # AMP: convolutions and products in half
            terms = loss(model(image.to(precision.parameters), mask), image, mask)
        fraction = len(image) / len(images)
        scaler.scale(terms.total * fraction).backward()  # AMP: small gradients do not round to 0
        parts.append([term.detach() * fraction for term in terms])
    if max_grad_norm is not None:
        scaler.unscale_(optimizer)  # the norm that counts is that of the real gradients
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    scaler.step(optimizer)  # AMP: unscaled first; skipped where a gradient overflowed
    scaler.update()  # AMP: the next scale
    return LossTerms(*map(sum, zip(*parts)))


class Trainer:
    """Trains a model: `Trainer(model, loss, precision="bf16").fit(batches, steps) -> History`.

    If torch.distributed is initialized, gradients are averaged over its processes.

    Args:
        model, loss: moved to the device.
        precision: a name of `pconv.precision`, or a Precision.
        device: "auto", "cpu", "cuda" or "cuda:N".
        lr: learning rate of Adam.
        fine_tune_at: the step from which on the paper's second phase (arXiv 1804.07723, Section
            4.2) runs: `fine_tune_lr`, with the encoder's batch norm frozen.
        fine_tune_lr: learning rate of that phase.
        cosine_decay_steps: over how many steps the learning rate falls to 0, along half a cosine
            (arXiv 1608.03983, Eq. 5); by default it stays.
        ema: decay of a moving average of the weights, such as 0.999, the `trained_model` then.
        texture_ramp_steps: over how many steps the loss's texture terms rise to their weights.
        grad_accum_steps, max_grad_norm: as in `training_step`.
        channels_last: whether the weights' memory format is channels-last.
        compile: whether the model is compiled.
        log_every: after how many steps values are read from the device; it waits for them.

    Raises:
        ValueError: for a precision or a device that this machine does not have.
    """

    def __init__(
        self,
        model: PConvUNet,
        loss: InpaintingLoss,
        precision: str | Precision = "bf16",
        device: str | torch.device = "auto",
        *,
        lr: float = 2e-4,
        fine_tune_at: int | None = None,
        fine_tune_lr: float = 5e-5,
        cosine_decay_steps: int | None = None,
        ema: float | None = None,
        texture_ramp_steps: int = 0,
        grad_accum_steps: int = 1,
        max_grad_norm: float | None = None,
        channels_last: bool = True,
        compile: bool = False,
        log_every: int = 10,
    ):
        self.device = resolve_device(device)
        self.precision = precision = get_precision(precision, self.device)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device, precision.parameters, memory_format=memory_format)
        self.loss = loss.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        self.scaler = precision.scaler(self.device.type)
        self.lr = lr
        self.fine_tune_at = fine_tune_at
        self.fine_tune_lr = fine_tune_lr
        self.cosine_decay_steps = cosine_decay_steps
        self.average = None if ema is None else MovingAverage(self.model, ema)
        self.texture_ramp_steps = texture_ramp_steps
        self.grad_accum_steps = grad_accum_steps
        self.max_grad_norm = max_grad_norm
        self.compile = compile
        self.log_every = log_every
        self.step = 0
        self.history = History()
        self.settings = {}  # saved with a checkpoint
        self._skips = SkipCounter(precision)
        self._run = None  # the model, compiled and distributed as requested

    def fit(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        steps: int,
        *,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        validate_every: int = 100,
        progress: tqdm | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 500,
    ) -> History:
        """Trains for `steps` more steps.

        Args:
            batches: images, float (N, 3, H, W) in [0, 1], and masks (N or 1, 1, H, W), in pairs.
            validate: called with the model in eval mode every `validate_every` steps and at the
                end; returns what to record.
            progress: a progress bar to advance; by default fit shows its own.
            checkpoint: a file, written every `save_every` steps and at the end.

        Returns:
            The history: loss terms, samples/s, skipped steps and the loss scale, at every
            `log_every`-th step.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the step has ended and the checkpoint is saved.
            FloatingPointError: when gradients were not finite for several steps in a row; it names
                the step, the loss term and the layer. One such step is only skipped.
            TypeError, ValueError: for images that are not floating in [0, 1]; ValueError when the
                batches end early.
        """
        batches = iter(batches)
        last = self.step + steps
        self.model.train()
        with (
            self._prepared(),
            self.precision.backend_flags(),
            self._open_progress(progress, last) as progress,
            defer_sigint() as interrupts,
        ):
            throughput = Throughput()
            while self.step < last and not interrupts:
                images, masks = self._next_batch(batches, last)
                if throughput.samples == 0:  # where the device is waited for anyway
                    check_training_images(images)
                terms = self._train_on(images, masks)
                throughput.samples += len(images) * distributed.world_size()
                progress.update()
                done = self.step == last
                if self.step % self.log_every == 0 or done:
                    self._log(terms, throughput, progress, images, masks)
                if validate is not None and (self.step % validate_every == 0 or done):
                    with throughput.paused():
                        self.history.record(self.step, **self._validate(validate))
                if self.step % save_every == 0 or done:
                    self._save(checkpoint, batches)
        if interrupts:
            self._save(checkpoint, batches)
            raise KeyboardInterrupt(f"stopped after step {self.step}")
        return self.history

    def _prepare(self) -> None:
        self.model = distributed.synchronize_batch_norm(self.model, self.device)
        model = distributed.distribute(self.model)
        self._run = torch.compile(model) if self.compile else model

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Keeps the prepared model; a distributed one for this fit only.

        Freed after its process group, it waits forever in torch 2.9, for a thread of Gloo.
        """
        if self._run is None:
            self._prepare()
        try:
            yield
        finally:
            if distributed.is_distributed():
                self._run = None

    def _open_progress(self, progress: tqdm | None, last: int) -> AbstractContextManager:
        if progress is not None:
            return nullcontext(progress)
        options = {"desc": self.precision.name, "disable": not distributed.is_main_process()}
        return tqdm(total=last, initial=self.step, unit="step", **options)

    def _next_batch(self, batches: Iterator, last: int) -> tuple[Tensor, Tensor]:
        batch = next(batches, None)
        if batch is None:
            raise ValueError(f"the batches ended after {self.step} steps of {last}")
        images, masks = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        return images, masks.expand(len(images), -1, -1, -1)

    def _train_on(self, images: Tensor, masks: Tensor) -> LossTerms:
        self._set_learning_rate()
        if self.texture_ramp_steps:
            self.loss.texture_scale = min(1, (self.step + 1) / self.texture_ramp_steps)
        terms = training_step(
            self._run,
            self.loss,
            self.optimizer,
            self.scaler,
            self.precision,
            images,
            masks,
            grad_accum_steps=self.grad_accum_steps,
            max_grad_norm=self.max_grad_norm,
        )
        self.step += 1
        if self.average is not None:
            self.average.update_parameters(self.model)
        return terms

    @property
    def trained_model(self) -> PConvUNet:
        """The model, or the average of its weights."""
        return self.model if self.average is None else self.average.module

    def _set_learning_rate(self) -> None:
        lr = self.lr
        if self.fine_tune_at is not None and self.step >= self.fine_tune_at:
            lr = self.fine_tune_lr
            if not self.model.encoder_norm_frozen:
                self.model.freeze_encoder_batch_norm()
                self._prepare()  # the processes no longer exchange what is frozen
        if self.cosine_decay_steps:
            progress = min(1, self.step / self.cosine_decay_steps)
            lr *= (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _log(self, terms, throughput, progress, images, masks) -> None:
        """Records what the device knows; it is waited for here and nowhere else."""
        values = distributed.average(torch.stack(list(terms))).tolist()
        values = dict(zip(LossTerms._fields, values, strict=True))
        skips = count_skipped_steps(self.optimizer, self.step)
        rate = throughput.restart()
        self.history.record(self.step, **values, skipped_steps=skips)
        if self.precision.scales:
            self.history.record(self.step, loss_scale=self.scaler.get_scale())
        if self._skips.are_too_many(self.step, skips, values["total"]):
            cause = find_non_finite(self.model, self.loss, self.precision, images, masks)
            raise FloatingPointError(
                f"step {self.step}: {cause}, so training has stopped; the last checkpoint is kept"
            )
        self.history.record(self.step, samples_per_second=rate)
        name = self.precision.name
        progress.set_postfix_str(f"{name}: loss {values['total']:.3f}, {rate:.1f} samples/s")

    def _validate(self, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        try:
            with torch.inference_mode():
                return validate(self.trained_model.eval())
        finally:
            self.trained_model.train()

    def _save(self, checkpoint: str | Path | None, batches: Iterable) -> None:
        if checkpoint is not None and distributed.is_main_process():
            save_checkpoint(checkpoint, self.state(batches))

    def state(self, batches: Iterable | None = None) -> dict:
        """All that a checkpoint needs, with the `position` of the batches if they have one."""
        return get_training_state(self, batches)

    def resume(self, state: dict, batches: Iterable | None = None) -> None:
        """Goes on from `state()`, on a CPU with as many threads bit for bit.

        Raises ValueError for another model or precision.
        """
        set_training_state(self, state, batches)
        skips = count_skipped_steps(self.optimizer, self.step)
        self._skips = SkipCounter(self.precision, self.step, skips)
