"""The precisions one can train in: what each casts, whether it scales the loss, and whether a device can."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """One way to train. autocast: what convolutions and products are cast to; parameters: how weights are kept."""

    name: str
    casts: str  # in words
    apex: str | None = None  # what NVIDIA apex called it
    autocast: torch.dtype | None = None
    parameters: torch.dtype = torch.float32
    scales: bool = False
    tf32: bool = False

    def context(self, device_type: str) -> torch.autocast:
        """The autocast context of the forward pass and the loss; switches autocast off for fp32, tf32 and pure-fp16."""
        return torch.autocast(device_type, dtype=self.autocast, enabled=self.autocast is not None)

    def scaler(self, device_type: str) -> torch.amp.GradScaler:
        """A dynamic loss scale for fp16; elsewhere one that only skips a step whose gradients are not finite.

        For pure-fp16 it does nothing: there are no float32 gradients to unscale.
        """
        if self.scales:
            return torch.amp.GradScaler(device_type)
        return _SkipOnly(device_type, init_scale=1.0, enabled=self.parameters == torch.float32)

    @contextmanager
    def math_mode(self):
        """TF32 on for tf32 and off for all others while this lasts: cuDNN's convolutions have it on by default.

        cuDNN times its algorithms, too, as all batches have one size: the one it guesses for VGG in FP32 can take five
        times as long, and tens of gigabytes.
        """
        backends, cudnn = (torch.backends.cuda.matmul, torch.backends.cudnn.conv), torch.backends.cudnn
        before, timed = [backend.fp32_precision for backend in backends], cudnn.benchmark
        try:
            cudnn.benchmark = True
            for backend in backends:
                backend.fp32_precision = "tf32" if self.tf32 else "ieee"
            yield
        finally:
            cudnn.benchmark = timed
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


class _SkipOnly(torch.amp.GradScaler):
    """GradScaler with a scale that stays 1."""

    def update(self, new_scale: float | None = None) -> None:
        super().update(1.0)


PRECISIONS = {
    p.name: p
    for p in (
        Precision("fp32", "nothing; TF32 off", apex="O0"),
        Precision("tf32", "nothing; float32 products are rounded to TF32 (10-bit fraction)", tf32=True),
        Precision("fp16", "convolutions and matrix products to float16", "O1", torch.float16, scales=True),
        Precision("bf16", "convolutions and matrix products to bfloat16", None, torch.bfloat16),
        Precision("pure-fp16", "everything, weights too, to float16", "O3", parameters=torch.float16),
    )
}


def get_precision(name: str, device: str | torch.device = "cpu") -> Precision:
    """The precision of that name. Raises ValueError, with the reason, for an unknown one or one the device lacks."""
    device = torch.device(device)
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; expected one of: {', '.join(PRECISIONS)}")
    ampere = _is_ampere(device)
    if name == "tf32" and not ampere:
        raise ValueError(f"tf32 is not possible on {device}: it needs an NVIDIA GPU of compute capability 8.0 (Ampere)")
    if name == "bf16" and device.type == "cuda" and not ampere:
        raise ValueError(f"bf16 is not possible on {device}: it needs compute capability 8.0 (Ampere); use fp16")
    return PRECISIONS[name]


def _is_ampere(device: torch.device) -> bool:
    """An NVIDIA GPU of that generation or a later one, with BF16 and TF32 units."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def speed_note(name: str, device: str | torch.device) -> str | None:
    """One line where a precision works on this device but is no faster there, else None."""
    if torch.device(device).type != "cpu":
        return None
    if "fp16" in name:
        return "fp16 works on a CPU, but its backward convolutions are some hundred times slower than fp32's; use bf16"
    if name == "bf16" and cpu_bf16_units() is None:
        return "this CPU has no BF16 units (AMX-BF16, AVX512-BF16): bf16 is emulated here and slower than fp32"
    return None


def fast_precision(device: str | torch.device) -> str:
    """The precision to train in by default: bf16 where the hardware has it, else fp16 on a GPU, fp32 on a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16" if _is_ampere(device) else "fp16"
    return "fp32" if speed_note("bf16", device) else "bf16"


def cpu_bf16_units() -> str | None:
    """The units with which this CPU multiplies bfloat16, such as "AMX-BF16", or None: then it is emulated, slowly."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
    else:  # before torch 2.11
        found = {"amx_bf16": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    units = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "bf16": "ARM BF16"}
    return next((label for key, label in units.items() if found.get(key)), None)
