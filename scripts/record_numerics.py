"""Tests every fact about numerics that depends on the device, and records whether it holds there.

python scripts/record_numerics.py --device cpu --json data/results/numerics_cpu.json
python scripts/record_numerics.py --device cuda --json data/results/numerics_cuda.json
"""

import argparse

import torch
from torch.nn import functional as F

from pconv.benchmark import provenance
from pconv.files import write_json

HALF, SINGLE = torch.float16, torch.float32
# What autocast does to an operation.
LOWERED = "to float16"
KEPT = "input dtype kept"
WIDENED = "to float32"
# (on a GPU, on a CPU) -> operations; features x (N, C, H, W), weights w (C, C, 3, 3),
# f = x.flatten(2).
ALWAYS_LOWERED = """
    F.conv2d(x, w); F.prelu(x, w[:, 0, 0, 0]); F.linear(f, f[0]); f[0] @ f[0].mT
    torch.bmm(f, f.mT); torch.baddbmm(f[:, :1, :1], f, f.mT, beta=0)
    torch.einsum("ncp,ndp->ncd", f, f)
"""
ALWAYS_WIDENED = """
    F.l1_loss(x, 2 * x); F.smooth_l1_loss(x, 2 * x); F.mse_loss(x, 2 * x); x.prod()
"""
WIDENED_ON_GPU = """
    x.reciprocal(); 9 / x; x.rsqrt(); x**2.5; x.exp(); x.log(); x.norm(); x.softmax(1); x.sum()
    x.cumsum(1); F.interpolate(x, scale_factor=2)
    F.interpolate(x, scale_factor=2, mode="bilinear")
"""
ALWAYS_KEPT = """
    x / 9; x + x; x * x; x.mean(); x.abs(); x.clamp(0, 1); torch.cat((x, x))
    F.batch_norm(x, None, None, training=True); x.repeat_interleave(2, 2)
"""
RULES = {
    (LOWERED, LOWERED): ALWAYS_LOWERED,
    (WIDENED, WIDENED): ALWAYS_WIDENED,
    (WIDENED, KEPT): WIDENED_ON_GPU,
    (KEPT, KEPT): ALWAYS_KEPT,
}


def autocast_rules(device: str):
    known = {(HALF, HALF): LOWERED, (SINGLE, HALF): KEPT, (SINGLE, SINGLE): WIDENED}
    for rules, operations in RULES.items():
        for operation in map(str.strip, operations.strip().replace("\n", ";").split(";")):
            dtypes = []
            for dtype in (SINGLE, HALF):
                x = torch.rand(1, 4, 8, 8, device=device).to(dtype) + 0.5
                w = torch.rand(4, 4, 3, 3, device=device).to(dtype) + 0.5
                names = {"torch": torch, "F": F, "x": x, "w": w, "f": x.flatten(2)}
                with torch.autocast(device, dtype=HALF):
                    dtypes.append(eval(operation, names).dtype)
            expected = rules[device == "cpu"]
            yield f"autocast: {operation}", expected, known.get(tuple(dtypes), str(dtypes))


def textbook_ratio(eps: float, dtype: torch.dtype, autocast: bool, device: str) -> str:
    """K / (sum + eps) * clamp(sum, 0, 1) at an empty 3x3 window."""
    mask = torch.zeros(1, 1, 3, 3, device=device, dtype=SINGLE if autocast else dtype)
    with torch.autocast(device, dtype=dtype, enabled=autocast):
        total = F.conv2d(mask, torch.ones_like(mask))
        return str((9 / (total + eps) * total.clamp(0, 1)).item())


def numbers(device: str):
    amp = "0.0" if device == "cuda" else "nan"
    for eps, in_autocast, in_half in (
        (1e-8, "nan", "nan"),
        (1e-6, amp, "nan"),
        (1e-3, "0.0", "0.0"),
    ):
        for dtype, autocast, expected in (
            (HALF, True, in_autocast),
            (HALF, False, in_half),
            (torch.bfloat16, True, "0.0"),
        ):
            name = (
                f"epsilon {eps:g}, an empty window, "
                f"{'autocast ' * autocast}{str(dtype).removeprefix('torch.')}"
            )
            yield name, expected, textbook_ratio(eps, dtype, autocast, device)

    def half(*values):
        return torch.tensor(values, device=device).to(HALF)

    def gram(features, alpha):
        unread = features[:, :1, :1]
        return torch.baddbmm(unread, features, features.mT, beta=0, alpha=alpha)[0, 0, 0].item()

    yield "2^-24 and 2^-25 as float16", [2.0**-24, 0.0], half(2.0**-24, 2.0**-25).tolist()
    yield "float16 2^15 / 2^20: the divisor is not rounded", 2.0**-5, (half(2.0**15) / 2**20).item()
    actual = gram(half(64).expand(1, 4, 2**12), 2.0**-28)  # of sums of 2^24
    yield "baddbmm with alpha = 2^-28: alpha is not rounded", 2.0**-4, actual
    for size in (256, 1024):
        f = half(1.1).expand(1, 64, size**2).contiguous()
        mean = f[0, 0, 0].item() ** 2 / 64
        name = f"1.1 over 64 x {size}^2"
        yield f"{name}: bmm, then divide", "inf", str((f @ f.mT / f.numel())[0, 0, 0].item())
        for allowed in (True, False):  # a GPU's library may keep partial sums in float16
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = allowed
            may = "may" if allowed else "must not"
            how = f"baddbmm is right to 0.2 %, partial sums {may} be float16"
            yield f"{name}: {how}", True, abs(gram(f, 1 / f.numel()) / mean - 1) < 2e-3
    ones = half(1).expand(70000)
    actual = [str(ones[:number].sum().item()) for number in (2049, 4096, 70000)]
    yield (
        "float16 sums of 2049, 4096, 70000 ones: rounded once, at the end",
        ["2048.0", "4096.0", "inf"],
        actual,
    )
    yield (
        "float32 ratio times float16 features",
        "torch.float32",
        str((ones[:1] * ones[:1].float()).dtype),
    )


def loss_scaling(device: str):
    scaler, w = torch.amp.GradScaler(device), torch.zeros(1, device=device, requires_grad=True)
    actual = [
        scaler.get_scale(),
        scaler.get_growth_factor(),
        scaler.get_backoff_factor(),
        scaler.get_growth_interval(),
    ]
    yield "GradScaler: scale, growth, backoff, interval", [65536.0, 2.0, 0.5, 2000], actual
    optimizer = torch.optim.SGD([w])
    scaler.scale((w * 1e38).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    yield (
        "GradScaler after an infinite gradient: weight, scale",
        [0.0, 32768.0],
        [w.item(), scaler.get_scale()],
    )
    w = torch.zeros(1, device=device, dtype=HALF, requires_grad=True)
    scaler.scale(w.float().sum()).backward()
    try:
        message = scaler.unscale_(torch.optim.SGD([w]))
    except ValueError as error:
        message = str(error)
    yield "GradScaler: float16 parameters", "Attempting to unscale FP16 gradients.", message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    rows = [
        {"fact": fact, "expected": expected, "found": actual, "holds": expected == actual}
        for facts in (autocast_rules, numbers, loss_scaling)
        for fact, expected, actual in facts(arguments.device)
    ]
    write_json(arguments.json, rows, provenance(arguments.device, seed=0))
    for row in rows:
        print(
            "holds" if row["holds"] else "FAILS",
            *(row[key] for key in ("fact", "expected", "found")),
            sep=" | ",
        )


if __name__ == "__main__":
    main()
