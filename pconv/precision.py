"""The precisions one can train in: what each casts, and whether it scales the loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pconv.devices import is_ampere


@dataclass(frozen=True)
class Precision:
    """One way to train."""

    name: str  # such as "bf16"
    casts: str  # what is cast to what, in words
    apex: str | None = None  # what NVIDIA apex called it
    autocast: torch.dtype | None = None  # what convolutions and matrix products are cast to
    parameters: torch.dtype = torch.float32  # of the weights
    scales: bool = False  # whether the loss is scaled
    tf32: bool = False  # whether a GPU may round float32 products to TF32

    def context(self, device_type: str) -> torch.autocast:
        """The autocast context of the forward pass and the loss.

        It switches autocast off for fp32, tf32 and pure-fp16.
        """
        return torch.autocast(device_type, dtype=self.autocast, enabled=self.autocast is not None)

    def scaler(self, device_type: str) -> torch.amp.GradScaler:
        """A dynamic loss scale for fp16.

        Elsewhere one with the scale 1, which only skips a step whose gradients are not finite. For
        pure-fp16 it does nothing: there are no float32 gradients to unscale.
        """
        if self.scales:
            return torch.amp.GradScaler(device_type)
        return _UnitScaler(device_type, init_scale=1.0, enabled=self.parameters == torch.float32)

    @contextmanager
    def backend_flags(self) -> Iterator[None]:
        """TF32 on for tf32, off for all others; cuDNN's convolutions have it on by default.

        cuDNN also times its algorithms, as all batches have one size: the one it guesses for VGG in
        FP32 can take five times as long, and tens of gigabytes.
        """
        cudnn = torch.backends.cudnn
        backends = (torch.backends.cuda.matmul, cudnn.conv)
        before = [backend.fp32_precision for backend in backends]
        benchmark = cudnn.benchmark
        try:
            cudnn.benchmark = True
            for backend in backends:
                backend.fp32_precision = "tf32" if self.tf32 else "ieee"
            yield
        finally:
            cudnn.benchmark = benchmark
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


class _UnitScaler(torch.amp.GradScaler):
    """GradScaler with a scale that stays 1."""

    def update(self, new_scale: float | None = None) -> None:
        super().update(1.0)


PRECISIONS = {
    p.name: p
    for p in (
        Precision("fp32", "nothing; TF32 off", apex="O0"),
        Precision(
            "tf32", "nothing; float32 products are rounded to TF32 (10-bit fraction)", tf32=True
        ),
        Precision(
            "fp16", "convolutions and matrix products to float16", "O1", torch.float16, scales=True
        ),
        Precision("bf16", "convolutions and matrix products to bfloat16", autocast=torch.bfloat16),
        Precision(
            "pure-fp16", "everything, weights too, to float16", "O3", parameters=torch.float16
        ),
    )
}


def get_precision(precision: str | Precision, device: str | torch.device = "cpu") -> Precision:
    """The precision of that name, or the given one, if the device has it.

    Raises ValueError, with the reason, for one that the device lacks, and for an unknown name.
    """
    if isinstance(precision, str):
        if precision not in PRECISIONS:
            expected = f"expected one of: {', '.join(PRECISIONS)}"
            raise ValueError(f"unknown precision {precision!r}; {expected}")
        precision = PRECISIONS[precision]
    device = torch.device(device)
    if precision.tf32 and not is_ampere(device):
        reason = "it needs an NVIDIA GPU of compute capability 8.0 (Ampere)"
        raise ValueError(f"{precision.name} is not possible on {device}: {reason}")
    if precision.autocast == torch.bfloat16 and device.type == "cuda" and not is_ampere(device):
        reason = "it needs compute capability 8.0 (Ampere); use fp16"
        raise ValueError(f"{precision.name} is not possible on {device}: {reason}")
    return precision
