"""The training step, with the AMP lines of the talk, and the loop around it."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from pconv.checkpoint import save_checkpoint
from pconv.history import History
from pconv.losses import InpaintingLoss, LossTerms
from pconv.precision import Precision, get_precision
from pconv.unet import PConvUNet


def training_step(model, loss, optimizer, scaler, precision, images, masks, accumulate=1, clip=None) -> LossTerms:
    """One step on images (N, 3, H, W) and masks (N, 1, H, W); the lines marked AMP are all that mixed precision adds.

    accumulate: in how many parts, one after the other, the batch is computed. clip: the largest gradient norm.
    """
    optimizer.zero_grad()
    parts = []
    for image, mask in zip(images.chunk(accumulate), masks.chunk(accumulate), strict=True):
        with precision.context(image.device.type):  # AMP: convolutions and products in half precision
            terms = loss(model(image.to(precision.parameters), mask), image, mask)
        share = len(image) / len(images)
        scaler.scale(terms.total * share).backward()  # AMP: scaled, so that small gradients do not round to 0
        parts.append([term.detach() * share for term in terms])
    if clip is not None:
        scaler.unscale_(optimizer)  # the norm that counts is that of the real gradients
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    scaler.step(optimizer)  # AMP: unscaled first; skipped where a gradient overflowed
    scaler.update()  # AMP: the next scale
    return LossTerms(*map(sum, zip(*parts)))


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

    model, loss: moved to the device. precision: a name of `pconv.precision`. lr: the learning rate of Adam; if `cosine`
    is given, it falls to 0 over that many steps, along half a cosine (arXiv 1608.03983, Eq. 5). From step
    `fine_tune_at` on, the paper's second phase (arXiv 1804.07723, Section 4.2): `fine_tune_lr`, with the encoder's
    batch norm frozen. accumulate, clip: as in `training_step`. read_every: after how many steps values are read from
    the device. Where torch.distributed is initialised, gradients are averaged over its processes.

    Raises ValueError for a precision or a device this machine cannot do.
    """

    def __init__(
        self,
        model: PConvUNet,
        loss: InpaintingLoss,
        precision: str = "bf16",
        device: str | torch.device = "auto",
        lr: float = 2e-4,
        fine_tune_at: int | None = None,
        fine_tune_lr: float = 5e-5,
        cosine: int | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        channels_last: bool = True,
        compile: bool = False,
        read_every: int = 10,
    ):
        self.device = pick_device(str(device))
        self.precision = get_precision(precision, self.device)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device, self.precision.parameters, memory_format=memory_format)
        self.loss = loss.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        self.scaler = self.precision.scaler(self.device.type)
        self.lr, self.cosine, self.fine_tune_at, self.fine_tune_lr = lr, cosine, fine_tune_at, fine_tune_lr
        self.accumulate, self.clip, self.compile, self.read_every = accumulate, clip, compile, read_every
        self.history, self.step, self.settings = History(), 0, {}
        self._last_read, self._skipped_in_a_row = (0, 0), 0  # (step, skipped steps)
        self._run = None

    def _prepare(self) -> None:
        """What is run in a step: the model, compiled and distributed where asked for."""
        model = self.model
        if dist.is_initialized():
            if self.device.type == "cuda":
                model = self.model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            model = nn.parallel.DistributedDataParallel(model)
        self._run = torch.compile(model) if self.compile else model

    @contextmanager
    def _prepared(self):
        """Keeps what is run in a step; where it is distributed no longer than a fit, as the process group outlives it.

        Freed after `destroy_process_group`, in torch 2.9 it waits for ever: for a Gloo thread that wants the GIL.
        """
        if self._run is None:
            self._prepare()
        try:
            yield
        finally:
            if dist.is_initialized():
                self._run = None

    def fit(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        steps: int,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        validate_every: int = 100,
        bar: tqdm | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 500,
    ) -> History:
        """Trains for `steps` more steps on (image (N, 3, H, W), mask (N, 1, H, W)) pairs.

        Every `read_every` steps the loss terms, samples/s, skipped steps and loss scale are read from the device into
        the history; in between it is never waited for. validate: called with the model in eval mode, returns what to
        record. bar: a progress bar to move on; one of its own by default. checkpoint: where to save every `save_every`
        steps and at the end; `settings`, a dict, is saved with it.

        Ctrl-C stops after the step, saves and raises KeyboardInterrupt. A step whose gradients are not finite is
        skipped; after a few in a row FloatingPointError names the step, the loss term and the layer.
        """
        self.model.train()
        batches, since, samples, last = iter(batches), time.perf_counter(), 0, self.step + steps
        own = bar is None
        if own:
            bar = tqdm(
                total=last, initial=self.step, desc=self.precision.name, unit="step", disable=not is_first_process()
            )
        shown = bar if own else nullcontext()
        with self._prepared(), self.precision.math_mode(), shown, _interrupted_later() as interrupted:
            while self.step < last and not interrupted:
                self._set_phase()
                pair = next(batches, None)
                if pair is None:
                    raise ValueError(f"the batches ended after {self.step} steps of {last}")
                images, masks = (t.to(self.device, non_blocking=True) for t in pair)
                terms = training_step(
                    self._run, self.loss, self.optimizer, self.scaler, self.precision,
                    images, masks, self.accumulate, self.clip,
                )  # fmt: skip
                self.step += 1
                samples += len(images) * (dist.get_world_size() if dist.is_initialized() else 1)
                bar.update()
                end = self.step == last
                if self.step % self.read_every == 0 or end:
                    rate = samples / (self._read(terms, images, masks) - since)
                    self.history.record(self.step, samples_per_second=rate)
                    loss = self.history.rows[-1]["total"]
                    bar.set_postfix_str(f"{self.precision.name}: loss {loss:.3f}, {rate:.1f} samples/s")
                    since, samples = time.perf_counter(), 0
                if validate is not None and (self.step % validate_every == 0 or end):
                    paused = time.perf_counter()
                    self.history.record(self.step, **self._validated(validate))
                    since += time.perf_counter() - paused
                if (self.step % save_every == 0 or end) and checkpoint is not None:
                    self._save(checkpoint, batches)
        if interrupted:
            if checkpoint is not None:
                self._save(checkpoint, batches)
            raise KeyboardInterrupt(f"stopped after step {self.step}")
        return self.history

    def _save(self, checkpoint: str | Path, batches: Iterable) -> None:
        if is_first_process():
            save_checkpoint(checkpoint, self.state(batches))

    def _set_phase(self) -> None:
        second = self.fine_tune_at is not None and self.step >= self.fine_tune_at
        if second and not self.model.encoder_norm_frozen:
            self.model.freeze_encoder_batch_norm()
            self._prepare()  # the processes no longer exchange what is frozen
        share = (1 + math.cos(math.pi * min(1, self.step / self.cosine))) / 2 if self.cosine else 1
        for group in self.optimizer.param_groups:
            group["lr"] = share * (self.fine_tune_lr if second else self.lr)

    def _read(self, terms: LossTerms, images: Tensor, masks: Tensor) -> float:
        """Records what the device knows, the one time it is waited for; returns the time when it had answered."""
        values = torch.stack(list(terms))
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        values = dict(zip(LossTerms._fields, values.tolist(), strict=True))
        skipped = self.step - self._steps_taken()
        answered = time.perf_counter()
        steps, bad = self.step - self._last_read[0], skipped - self._last_read[1]
        self._last_read = self.step, skipped
        self.history.record(self.step, **values, skipped_steps=skipped)
        if self.precision.scales:
            self.history.record(self.step, loss_scale=self.scaler.get_scale())
        finite = math.isfinite(values["total"])
        self._skipped_in_a_row = self._skipped_in_a_row + bad if bad == steps else 0 if finite else bad
        unguarded = not self.scaler.is_enabled() and not finite
        if self._skipped_in_a_row >= (24 if self.precision.scales else 3) or unguarded:
            where = find_non_finite(self.model, self.loss, self.precision, images, masks)
            raise FloatingPointError(f"step {self.step}: {where}, so training has stopped; the last checkpoint is kept")
        return answered

    def _steps_taken(self) -> int:
        """The steps that changed the weights: Adam does not count the ones it skipped."""
        taken = [state["step"] for state in self.optimizer.state.values() if "step" in state]
        return int(torch.stack(taken).max()) if taken else 0

    def _validated(self, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        self.model.eval()
        try:
            with torch.inference_mode():
                return validate(self.model)
        finally:
            self.model.train()

    def state(self, batches: Iterable | None = None) -> dict:
        """All a checkpoint needs: model, optimiser, scaler, random numbers, threads, history, place in the data."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "precision": self.precision.name,
            "settings": self.settings,
            "threads": torch.get_num_threads(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "history": self.history.rows,
            "position": getattr(batches, "position", self.step),
        }

    def resume(self, state: dict, batches: Iterable | None = None) -> None:
        """Goes on from `state()`; batches with a `position` are set to where they were.

        Bit for bit on a CPU: the number of threads is set to what it was. Raises ValueError where model or precision
        are not the ones of the state.
        """
        mine = self.state() | {"random_cuda": state.get("random_cuda")}  # None without a GPU
        wrong = [name for name in mine if not isinstance(state.get(name), type(mine[name]))]
        if wrong:
            raise ValueError(f"the checkpoint has no {', '.join(wrong)} as Trainer.state() gives it")
        if state["precision"] != self.precision.name:
            raise ValueError(f"the checkpoint was trained in {state['precision']}, not in {self.precision.name}")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            torch.set_num_threads(state["threads"])
            torch.set_rng_state(state["random"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"the checkpoint is of another model: {str(error).splitlines()[-1].strip()}") from error
        if mine["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["random_cuda"], self.device)
        self.step, self.history, self.settings = state["step"], History(state["history"]), state["settings"]
        self._last_read = self.step, self.step - self._steps_taken()
        if hasattr(batches, "position"):
            batches.position = state["position"]


def find_non_finite(model, loss, precision: Precision, images: Tensor, masks: Tensor) -> str:
    """Replays a step with hooks and says what went bad first: a layer's output, a loss term or a layer's gradient."""
    found = []

    def watch(name: str):
        def hook(module, inputs, output):
            tensors = output if isinstance(output, tuple | list) else (output,)
            found.extend(name for t in tensors if isinstance(t, Tensor) and not torch.isfinite(t).all())

        return hook

    named = [(f"{name} of the {kind}", module) for kind, owner in (("model", model), ("loss", loss))
             for name, module in owner.named_modules() if name and not list(module.children())]  # fmt: skip
    handles = [module.register_forward_hook(watch(name)) for name, module in named]
    model.zero_grad()
    try:
        with precision.context(images.device.type):
            terms = loss(model(images.to(precision.parameters), masks), images, masks)
    finally:
        for handle in handles:
            handle.remove()
    bad = [name for name, value in terms._asdict().items() if not torch.isfinite(value)]
    layer = f"the first output that is not finite is that of {found[0]}" if found else "every layer's output is finite"
    if bad:
        return f"the loss is not finite in {', '.join(bad)}; {layer}"
    terms.total.backward()
    names = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    model.zero_grad()
    return f"the loss is finite, the gradient is not, first in {names[-1]}" if names else f"not seen again; {layer}"


@contextmanager
def _interrupted_later():
    """A list that Ctrl-C fills, instead of raising, while this lasts; only in the main thread."""
    interrupted = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def is_first_process() -> bool:
    """Whether this is the process that writes, when several train together."""
    return not dist.is_initialized() or dist.get_rank() == 0
