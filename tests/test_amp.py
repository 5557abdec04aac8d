"""What notebook 07 uses: CUDA's rules without a GPU, the bytes of a step, networks that fail."""

import json
import math
from pathlib import Path

import pytest
import torch
from course import amp
from torch.nn import functional as F

import pconv
from pconv.diagnostics import range_report

RECORD = Path(__file__).parents[1] / "data" / "results" / "numerics_cuda.json"


def test_fake_tensors_obey_the_rules_that_a_gpu_was_seen_to_obey():
    rows = [row for row in json.loads(RECORD.read_text())["rows"] if "autocast: " in row["fact"]]
    assert len(rows) > 30
    if torch.__version__.startswith("2.9."):  # indexing asks the GPU's driver, which may be missing
        rows = [row for row in rows if "[" not in row["fact"]]
        assert len(rows) > 25
    half, single = torch.float16, torch.float32
    expected = {"to float16": (half,) * 2, "to float32": (single,) * 2}
    expected["input dtype kept"] = (half, single)
    with amp.cuda_autocast():
        for row in rows:
            found = []
            for dtype in (half, single):
                x = torch.ones(4, 4, 4, 4, device="cuda").to(dtype)
                names = {"torch": torch, "F": F, "x": x, "w": x, "f": x.flatten(0, 1)}
                found.append(eval(row["fact"].removeprefix("autocast: "), names).dtype)
            assert tuple(found) == expected[row["found"]], row["fact"]


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_cast_rules(half):
    with amp.cuda_autocast(half):
        rules = {name: amp.cast_rule(name, half, "cuda") for name in amp.OPERATIONS}
    assert rules["t @ t"] == "half" and rules["t.sum()"] == "FP32" and rules["t + t"] == "input's"
    assert not torch.is_autocast_enabled("cuda") and torch.backends.cudnn.enabled


def test_dtypes_of_layers():
    model = pconv.PConvUNet(widths=(4, 4)).eval()
    on_cuda = amp.get_cuda_dtypes(model, (1, 3, 16, 16), (1, 1, 16, 16))
    assert set(on_cuda.values()) == {(torch.float16, torch.float16)}
    inputs = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    on_cpu = amp.get_dtypes(model, lambda: model(*inputs))
    assert set(on_cpu.values()) == {(torch.float32, torch.float32)}
    assert list(on_cpu) == list(on_cuda)
    assert not any(module._forward_hooks for module in model.modules())


def test_step_bytes():
    fp32, bf16 = (
        amp.step_bytes(pconv.PRECISIONS[name], batch, size=32, widths=(8, 16))
        for name, batch in (("fp32", 2), ("bf16", 4))
    )
    weights = sum(p.numel() for p in pconv.PConvUNet(widths=(8, 16)).parameters())
    assert fp32["weights"] == fp32["gradients"] == bf16["gradients"] == 4 * weights
    assert fp32["Adam's two averages"] == 8 * weights
    assert fp32["half copies of weights"] == 0 < bf16["half copies of weights"] <= 2 * weights
    assert bf16["activations"] == pytest.approx(fp32["activations"], rel=0.1)  # twice the images


def test_train_small():
    photos, masks = amp.photo_batch(amp.PHOTOS, 32)
    assert photos.shape == (3, 3, 32, 32) and masks.shape == (3, 1, 32, 32)
    given = []

    def before_step(model, step):
        given.append(step)
        return photos, masks

    scaler = torch.amp.GradScaler("cpu")
    errors, zeros = amp.train_small(photos, masks, 6, scaler, before_step=before_step)
    assert given == [*range(6)] and errors[-1] < errors[0] and zeros < 0.2
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    _, zeros = amp.train_small(photos, masks, 2, scaler, elements=2**30)
    assert zeros > 0.9
    _, zeros = amp.train_small(photos, masks, 2, scaler, elements=2**30, fp16=False)
    assert zeros < 0.2


def test_the_networks_that_fail():
    assert amp.Root()(torch.tensor(-1.0)).isnan()
    x = torch.zeros(1, requires_grad=True)
    y = amp.RootOfSize()(x)
    y.sum().backward()
    assert y.isfinite().all() and not x.grad.isfinite().all()
    torch.manual_seed(0)
    inpainter = amp.Inpainter()
    photo, mask = amp.photo_batch(("coffee",), 320)
    for enabled, first in ((False, None), (True, ("activations", "hole"))):
        context = torch.autocast("cpu", dtype=torch.float16, enabled=enabled)
        with torch.no_grad(), range_report(inpainter) as report, context:
            value = inpainter(photo, 1 - mask)
        assert report.first_not_finite() == first
        assert value.item() == math.inf if enabled else value.isfinite()


def test_draw_title(tmp_path):
    amp.draw_title(tmp_path / "title.png", size=32)
    assert 10_000 < (tmp_path / "title.png").stat().st_size < 150_000
