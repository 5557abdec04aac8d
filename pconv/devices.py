"""What this machine can do: its devices, and which precision is fast on them."""

import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" is the GPU, or the CPU if there is none.

    Raises ValueError for a device that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N"
        ) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        raise ValueError(f"no device {device!r} on this machine: torch finds {count} CUDA GPU(s)")
    return resolved


def is_ampere(device: str | torch.device) -> bool:
    """Whether it is an NVIDIA GPU of that generation or later, with BF16 and TF32 units."""
    device = torch.device(device)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_bf16_units() -> str | None:
    """The CPU's units for bfloat16, such as "AMX-BF16"; None where it is emulated, slowly."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
    else:  # before torch 2.11
        capabilities = {
            "amx_bf16": torch.cpu._is_amx_tile_supported(),
            "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        }
    names = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "bf16": "ARM BF16"}
    return next((name for key, name in names.items() if capabilities.get(key)), None)


def performance_warning(precision: str, device: str | torch.device) -> str | None:
    """One line if the precision of that name works on this device but is no faster there."""
    if torch.device(device).type != "cpu":
        return None
    if "fp16" in precision:
        return (
            "fp16 works on a CPU, but its backward convolutions are some hundred times slower than "
            "fp32's; use bf16"
        )
    if precision == "bf16" and cpu_bf16_units() is None:
        return (
            "this CPU has no BF16 units (AMX-BF16, AVX512-BF16): bf16 is emulated here and slower "
            "than fp32"
        )
    return None


def default_precision(device: str | torch.device) -> str:
    """The precision to train in: bf16 if the hardware has it, else fp16 on a GPU, fp32 on a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16" if is_ampere(device) else "fp16"
    return "fp32" if performance_warning("bf16", device) else "bf16"
