"""Runs every fact about numerics that depends on the device, and writes down whether it holds there.

python data/record_numerics.py --device cpu --json data/results/numerics_cpu.json
python data/record_numerics.py --device cuda --json data/results/numerics_cuda.json
"""

import argparse

import torch
from torch.nn import functional as F

from pconv.benchmark import provenance
from pconv.history import write_json

HALF, SINGLE = torch.float16, torch.float32
LOWERED, KEPT, WIDENED = "to float16", "input dtype kept", "to float32"  # what autocast does to an operation
# That on a GPU and on a CPU, to operations of features x (N, C, H, W), weights w (C, C, 3, 3) and f = x.flatten(2).
RULES = {
    (LOWERED, LOWERED): """F.conv2d(x, w); F.prelu(x, w[:, 0, 0, 0]); F.linear(f, f[0]); f[0] @ f[0].mT
        torch.bmm(f, f.mT); torch.baddbmm(f[:, :1, :1], f, f.mT, beta=0); torch.einsum("ncp,ndp->ncd", f, f)""",
    (WIDENED, WIDENED): "F.l1_loss(x, 2 * x); F.smooth_l1_loss(x, 2 * x); F.mse_loss(x, 2 * x); x.prod()",
    (WIDENED, KEPT): """x.reciprocal(); 9 / x; x.rsqrt(); x**2.5; x.exp(); x.log(); x.norm(); x.softmax(1); x.sum()
        x.cumsum(1); F.interpolate(x, scale_factor=2); F.interpolate(x, scale_factor=2, mode="bilinear")""",
    (KEPT, KEPT): """x / 9; x + x; x * x; x.mean(); x.abs(); x.clamp(0, 1); torch.cat((x, x))
        F.batch_norm(x, None, None, training=True); x.repeat_interleave(2, 2)""",
}


def autocast_rules(device: str):
    for rules, operations in RULES.items():
        for operation in map(str.strip, operations.replace("\n", ";").split(";")):
            found = []
            for dtype in (SINGLE, HALF):
                x, w = (torch.rand(shape, device=device).to(dtype) + 0.5 for shape in ((1, 4, 8, 8), (4, 4, 3, 3)))
                with torch.autocast(device, dtype=HALF):
                    found.append(eval(operation, {"torch": torch, "F": F, "x": x, "w": w, "f": x.flatten(2)}).dtype)
            known = {(HALF, HALF): LOWERED, (SINGLE, HALF): KEPT, (SINGLE, SINGLE): WIDENED}
            yield f"autocast: {operation}", rules[device == "cpu"], known.get(tuple(found), str(found))


def textbook_ratio(eps: float, dtype: torch.dtype, autocast: bool, device: str) -> str:
    """K / (sum + eps) * clamp(sum, 0, 1) at an empty 3x3 window."""
    mask = torch.zeros(1, 1, 3, 3, device=device, dtype=SINGLE if autocast else dtype)
    with torch.autocast(device, dtype=dtype, enabled=autocast):
        total = F.conv2d(mask, torch.ones_like(mask))
        return str((9 / (total + eps) * total.clamp(0, 1)).item())


def numbers(device: str):
    amp = "0.0" if device == "cuda" else "nan"
    for eps, *expected in ((1e-8, "nan", "nan"), (1e-6, amp, "nan"), (1e-3, "0.0", "0.0")):
        for dtype, autocast, wanted in zip((HALF, HALF, torch.bfloat16), (True, False, True), (*expected, "0.0")):
            name = f"epsilon {eps:g}, an empty window, {'autocast ' * autocast}{str(dtype).removeprefix('torch.')}"
            yield name, wanted, textbook_ratio(eps, dtype, autocast, device)

    def half(*values):
        return torch.tensor(values, device=device).to(HALF)

    def gram(features, alpha):
        return torch.baddbmm(features[:, :1, :1], features, features.mT, beta=0, alpha=alpha)[0, 0, 0].item()

    yield "2^-24 and 2^-25 as float16", [2.0**-24, 0.0], half(2.0**-24, 2.0**-25).tolist()
    yield "float16 2^15 / 2^20: the divisor is not rounded", 2.0**-5, (half(2.0**15) / 2**20).item()
    found = gram(half(64).expand(1, 4, 2**12), 2.0**-28)  # of sums of 2^24
    yield "baddbmm with alpha = 2^-28: alpha is not rounded", 2.0**-4, found
    for size in (256, 1024):
        f = half(1.1).expand(1, 64, size**2).contiguous()
        mean, name = f[0, 0, 0].item() ** 2 / 64, f"1.1 over 64 x {size}^2"
        yield f"{name}: bmm, then divide", "inf", str((f @ f.mT / f.numel())[0, 0, 0].item())
        for allowed in (True, False):  # a GPU's library may keep partial sums in float16
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = allowed
            how = f"baddbmm is right to 0.2 %, partial sums {'may' if allowed else 'must not'} be float16"
            yield f"{name}: {how}", True, abs(gram(f, 1 / f.numel()) / mean - 1) < 2e-3
    ones = half(1).expand(70000)
    found = [str(ones[:number].sum().item()) for number in (2049, 4096, 70000)]
    yield "float16 sums of 2049, 4096, 70000 ones: rounded once, at the end", ["2048.0", "4096.0", "inf"], found
    yield "float32 ratio times float16 features", "torch.float32", str((ones[:1] * ones[:1].float()).dtype)


def loss_scaling(device: str):
    scaler, w = torch.amp.GradScaler(device), torch.zeros(1, device=device, requires_grad=True)
    found = [scaler.get_scale(), scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()]
    yield "GradScaler: scale, growth, backoff, interval", [65536.0, 2.0, 0.5, 2000], found
    optimizer = torch.optim.SGD([w])
    scaler.scale((w * 1e38).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    yield "GradScaler after an infinite gradient: weight, scale", [0.0, 32768.0], [w.item(), scaler.get_scale()]
    w = torch.zeros(1, device=device, dtype=HALF, requires_grad=True)
    scaler.scale(w.float().sum()).backward()
    try:
        said = scaler.unscale_(torch.optim.SGD([w]))
    except ValueError as error:
        said = str(error)
    yield "GradScaler: float16 parameters", "Attempting to unscale FP16 gradients.", said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    rows = [
        {"fact": fact, "expected": expected, "found": found, "holds": expected == found}
        for facts in (autocast_rules, numbers, loss_scaling)
        for fact, expected, found in facts(arguments.device)
    ]
    write_json(arguments.json, rows, provenance(arguments.device, seed=0))
    for row in rows:
        print("holds" if row["holds"] else "FAILS", *(row[key] for key in ("fact", "expected", "found")), sep=" | ")


if __name__ == "__main__":
    main()
