"""The precisions: what each casts and scales, where it is possible, where it is slow. Devices."""

import pytest
import torch
from toy_training import Pixels, make

from pconv import PRECISIONS, Trainer, get_precision
from pconv.devices import cpu_bf16_units, default_precision, performance_warning, resolve_device

TABLE = {  # name: (what autocast casts to, dtype of the weights, scales the loss, TF32, apex)
    "fp32": (None, torch.float32, False, False, "O0"),
    "tf32": (None, torch.float32, False, True, None),
    "fp16": (torch.float16, torch.float32, True, False, "O1"),
    "bf16": (torch.bfloat16, torch.float32, False, False, None),
    "pure-fp16": (None, torch.float16, False, False, "O3"),
}


def test_the_table():
    assert {
        p.name: (p.autocast, p.parameters, p.scales, p.tf32, p.apex) for p in PRECISIONS.values()
    } == TABLE
    assert list(PRECISIONS) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_context_casts_products_and_nothing_else(name):
    precision = PRECISIONS[name]
    a = torch.rand(3, 3)
    with precision.context("cpu"):
        product, total = a @ a, a + a
    assert product.dtype == (TABLE[name][0] or torch.float32) and total.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", TABLE)
def test_scaler_scales_for_fp16_only(name):
    scaler = PRECISIONS[name].scaler("cpu")
    assert scaler.is_enabled() == (name != "pure-fp16")  # which has no float32 gradients to look at
    scaled = scaler.scale(torch.tensor(2.0)).item()
    assert scaled == (2 * 65536 if name == "fp16" else 2)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("before", ["ieee", "tf32"])
def test_backend_flags_turns_tf32_on_or_off_and_back(name, before, monkeypatch):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before_test = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = before
        with pytest.raises(KeyError), PRECISIONS[name].backend_flags():
            assert {backend.fp32_precision for backend in backends} == {
                "tf32" if name == "tf32" else "ieee"
            }
            assert torch.backends.cudnn.benchmark
            raise KeyError
        assert {backend.fp32_precision for backend in backends} == {before}
        assert not torch.backends.cudnn.benchmark  # torch's default
    finally:
        for backend, value in zip(backends, before_test, strict=True):
            backend.fp32_precision = value


def pretend_gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


@pytest.mark.parametrize(
    ("name", "device", "capability", "reason"),
    [
        (
            "tf32",
            "cpu",
            None,
            "tf32 is not possible on cpu: it needs an NVIDIA GPU of compute capability 8.0",
        ),
        ("tf32", "cuda:1", (7, 5), "tf32 is not possible on cuda:1.*8.0"),
        ("bf16", "cuda", (7, 0), "bf16 is not possible on cuda.*8.0.*use fp16"),
        (
            "fp8",
            "cpu",
            None,
            "unknown precision 'fp8'; expected one of: fp32, tf32, fp16, bf16, pure-fp16",
        ),
        ("FP16", "cpu", None, "unknown precision 'FP16'"),
    ],
)
def test_an_impossible_precision_is_refused_with_the_reason(
    monkeypatch, name, device, capability, reason
):
    pretend_gpu(monkeypatch, capability)
    with pytest.raises(ValueError, match=reason):
        get_precision(name, device)


@pytest.mark.parametrize(
    ("device", "capability", "possible"),
    [
        ("cpu", None, ["fp32", "fp16", "bf16", "pure-fp16"]),
        ("cuda", (7, 0), ["fp32", "fp16", "pure-fp16"]),
        ("cuda", (8, 0), list(TABLE)),
        ("cuda:3", (9, 0), list(TABLE)),
    ],
)
def test_possible_precisions(monkeypatch, device, capability, possible):
    pretend_gpu(monkeypatch, capability)
    for name in possible:
        assert get_precision(name, torch.device(device)) is PRECISIONS[name]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("units", [None, "AMX-BF16"])
def test_performance_warning_is_one_line_where_a_precision_is_slow(monkeypatch, name, units):
    monkeypatch.setattr("pconv.devices.cpu_bf16_units", lambda: units)
    assert performance_warning(name, "cuda") is None
    note = performance_warning(name, "cpu")
    if "fp16" in name:
        assert "backward" in note and "bf16" in note and "\n" not in note
    elif name == "bf16" and units is None:
        assert "no BF16 units" in note and "\n" not in note
    else:
        assert note is None


@pytest.mark.parametrize(
    ("capabilities", "units"),
    [
        ({}, None),
        ({"amx_bf16": False, "avx512_bf16": True}, "AVX512-BF16"),
        ({"avx512_bf16": True, "amx_bf16": True}, "AMX-BF16"),
        ({"bf16": True}, "ARM BF16"),
    ],
)
def test_cpu_bf16_units(monkeypatch, capabilities, units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_bf16_units() == units


@pytest.mark.parametrize("without", [True, False])
def test_cpu_bf16_units_of_an_older_torch(monkeypatch, without):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not without, raising=False)
    assert cpu_bf16_units() == (None if without else "AVX512-BF16")


def test_default_precision(monkeypatch):
    for units, expected in (("AMX-BF16", "bf16"), (None, "fp32")):
        monkeypatch.setattr("pconv.devices.cpu_bf16_units", lambda units=units: units)
        assert default_precision("cpu") == expected
    for capability, expected in (((7, 0), "fp16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert default_precision("cuda") == expected


# Devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [0, 2])
def test_resolve_device(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device() == resolve_device("auto") == torch.device("cuda" if gpus else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")
    for device in ("cuda", "cuda:1"):
        if gpus:
            assert resolve_device(device) == torch.device(device)
        else:
            with pytest.raises(
                ValueError, match=rf"no device '{device}' on this machine: torch finds 0 CUDA GPU"
            ):
                resolve_device(device)
    with pytest.raises(ValueError, match=rf"no device 'cuda:2' .*{gpus} CUDA GPU"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "unknown device 'gpu'; expected auto, cpu, cuda or cuda:N"),
        ("", "unknown device ''"),
        ("meta", "device 'meta' is not supported; expected auto, cpu, cuda"),
        ("mps", "device 'mps' is not supported"),
    ],
)
def test_other_devices_are_refused(device, words):
    with pytest.raises(ValueError, match=words):
        resolve_device(device)
    with pytest.raises(ValueError, match=words):
        Trainer(make(), Pixels(), "fp32", device)
