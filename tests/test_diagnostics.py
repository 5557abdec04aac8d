"""A training that diverged names what went non-finite first; ranges are recorded as they are."""

import copy
import math

import pytest
import torch
import torchvision
from helpers import count_operations
from torch import nn
from torch.nn import functional as F
from toy_training import Pixels, Planted, batches, make, same_weights

from pconv import PConvUNet, Trainer
from pconv.diagnostics import range_report


@pytest.mark.parametrize(
    ("precision", "where"),
    [
        ("fp32", r"step 4: .*encoder\.1"),
        ("bf16", r"step 4: .*encoder\.1"),
        ("fp16", r"step 2[45]: .*encoder\.1"),  # the scale is given the time to fall
        (
            "pure-fp16",
            r"step 2: .*encoder\.0",
        ),  # Adam's epsilon is 0 in half: the first step already was 0/0
    ],
)
def test_after_a_few_in_a_row_training_stops_and_names_the_culprit(precision, where, tmp_path):
    model = make(widths=(2, 2))
    trainer = Trainer(model, Pixels(), precision, "cpu", log_every=1)
    trainer.fit(batches(batch=1, size=8), 1, checkpoint=tmp_path / "c.pt")
    before = (tmp_path / "c.pt").read_bytes()
    with torch.no_grad():
        model.encoder[1].conv.weight[0, 0, 0, 0] = math.inf
    with pytest.raises(FloatingPointError, match=where + r"\.conv of the model") as error:
        trainer.fit(batches(batch=1, size=8), 50, checkpoint=tmp_path / "c.pt")
    assert "the loss is not finite in valid, hole, total" in str(error.value)
    assert (tmp_path / "c.pt").read_bytes() == before


def test_the_term_and_the_gradient_are_named():
    class Rooted(Pixels):
        def forward(self, output, target, mask):
            terms = super().forward(output, target, mask)
            return terms._replace(
                tv=torch.sqrt(output.sum() * 0) * 0, total=torch.sqrt(output.sum() * 0)
            )

    trainer = Trainer(make(), Rooted(), "fp32", "cpu", log_every=1)
    with pytest.raises(
        FloatingPointError, match=r"loss is finite, the gradient is not, first in decoder.1.conv"
    ):
        trainer.fit(batches(), 5)
    trainer = Trainer(make(), Planted(*[math.inf] * 9), "fp32", "cpu", log_every=1)
    with pytest.raises(
        FloatingPointError, match=r"not finite in total; every layer's output is finite"
    ):
        trainer.fit(batches(), 5)


# range_report


def classify(images, labels):
    model = torchvision.models.resnet18()
    return model, lambda model: F.cross_entropy(model(images), labels)


def inpaint(images, masks):
    model = PConvUNet(widths=(8, 16))
    return model, lambda model: (model(images, masks) - images).abs().mean()


def networks():
    images = torch.rand(2, 3, 48, 48)
    return {
        "ResNet-18": classify(images, torch.tensor([3, 7])),
        "PConvUNet": inpaint(images, (torch.rand(2, 1, 48, 48) > 0.3).float()),
    }


def plain_values(model, loss):
    """{kind: {layer: values}} of one step, by keeping every tensor, none of it in place."""
    model = copy.deepcopy(model)
    outputs, copies = {}, {}
    for name, module in model.named_modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if not list(module.children()):

            def keep(module, inputs, output, name=name):
                for tensor in output if isinstance(output, tuple) else (output,):
                    tensor.requires_grad and tensor.retain_grad()
                    outputs.setdefault(name, []).append(tensor)
                    copies.setdefault(name, []).append(tensor.clone().flatten())

            module.register_forward_hook(keep)
    loss(model).backward()
    values = {"activations": {}, "gradients": {}, "weights": {}, "weight_gradients": {}}
    for name, tensors in outputs.items():
        values["activations"][name] = torch.cat(copies[name])  # a residual block adds in place
        grads = [tensor.grad.flatten() for tensor in tensors if tensor.grad is not None]
        values["gradients"] |= {name: torch.cat(grads)} if grads else {}
    for name, module in model.named_modules():
        if parameters := list(module.parameters(recurse=False)):
            values["weights"][name] = torch.cat([p.flatten() for p in parameters])
            grads = torch.cat([p.grad.flatten() for p in parameters])
            values["weight_gradients"][name] = grads
    return values


@pytest.mark.parametrize("name", ["ResNet-18", "PConvUNet"])
def test_ranges_are_those_of_a_plain_computation(name):
    model, loss = networks()[name]
    expected = plain_values(model, loss)
    with range_report(model) as report:
        loss(model).backward()
    for kind, layers in expected.items():
        assert set(report.layers(kind)) == set(layers)
        for layer, values in layers.items():
            actual = report.shares(kind, layer)
            there = values[values != 0]
            half = there.half()
            assert actual.zeros == pytest.approx((values == 0).double().mean().item())
            assert actual.to_zero == pytest.approx((half == 0).double().mean().item())
            assert actual.overflow == pytest.approx(half.isinf().double().mean().item())
            subnormal = (half != 0) & (half.abs() < 2.0**-14)
            assert actual.subnormal == pytest.approx(subnormal.double().mean().item(), abs=1e-3)
            _, counts = report.histogram(kind, layer)
            assert counts.sum() == len(there)
            smallest, largest = (f(there.abs()).log2().item() for f in (torch.min, torch.max))
            assert smallest - 1 < actual.smallest <= smallest + 1e-3
            assert largest - 1 < actual.largest <= largest + 1e-3
    assert report.layers("activations")[0] == next(iter(expected["activations"]))


def test_recording_changes_nothing_and_waits_for_nothing(monkeypatch):
    def train(model, loss, steps=2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()

    model, loss = networks()["PConvUNet"]
    plain = copy.deepcopy(model)
    train(plain, loss)
    waits = []
    for method in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu"):
        monkeypatch.setattr(torch.Tensor, method, lambda *given, name=method: waits.append(name))

    def record():
        with range_report(model) as report:
            train(model, loss)
        return report

    reports = []
    counts = count_operations(lambda: reports.append(record()))
    monkeypatch.undo()
    for wait in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "bincount"):
        assert counts[wait] == 0
    assert counts["frexp"] > 50 and not waits
    assert same_weights(model, plain)
    reads = count_operations(lambda: reports[0].table())
    assert reads["stack"] == 1 and reads["_local_scalar_dense"] == 0
    assert count_operations(lambda: print(reports[0]))["stack"] == 0  # all was read at once


def hooks(model):
    parameters = sum(len(p._backward_hooks or ()) for p in model.parameters())
    modules = sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())
    return parameters + modules


def test_hooks_are_removed_also_after_an_exception():
    model, loss = networks()["PConvUNet"]
    with range_report(model):
        assert hooks(model) > 10
        value = loss(model)
    assert hooks(model) == 0
    with pytest.raises(KeyError), range_report(model) as report:
        late = loss(model)
        raise KeyError
    assert hooks(model) == 0
    value.backward()  # a graph may outlive the recording
    late.backward()
    assert report.layers("gradients") == []
    assert report.layers("weights") and report.layers("activations")


class Everything(nn.Module):
    """Calls a layer twice, shares one under two names, works in place, returns what not."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(3, 3)
        self.shared = nn.Linear(3, 3)
        self.again = self.shared
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.twice.weight
        self.relu = nn.ReLU(inplace=True)
        self.parts = Parts()
        self.never = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = self.relu(self.twice(self.relu(self.twice(x))))
        x = self.again(self.tied(self.shared(x)))
        return self.parts(x)["list"][1][0] * self.scale


class Parts(nn.Module):
    def forward(self, x):
        return {"list": [x.long(), (x * 2, None, "text")], "mask": x > 0, "constant": torch.ones(4)}


def test_a_layer_may_be_called_often_shared_and_return_anything():
    model, x = Everything(), torch.randn(5, 3)
    with range_report(model) as report:
        for _ in range(2):
            model(x).sum().backward()

    def count(kind, layer):
        return report.histogram(kind, layer)[1].sum() + round(
            report.shares(kind, layer).zeros * 2 * 2 * 15
        )

    assert "again" not in report.layers("activations")
    for layer in ("twice", "shared", "relu"):
        assert count("activations", layer) == count("gradients", layer) == 2 * 2 * 15
    assert report.histogram("activations", "parts")[1].sum() == 2 * (15 + 4)
    assert report.histogram("gradients", "parts")[1].sum() == 2 * 15
    assert report.histogram("weights", "twice")[1].sum() == 12
    assert {"never", "tied", "Everything"} <= set(report.layers("weights"))
    assert "never" not in report.layers("activations")
    assert report.histogram("weight_gradients", "Everything")[1].sum() == 2 * 3


@pytest.mark.parametrize(
    "model, x",
    [
        (nn.Linear(3, 2), torch.randn(4, 3)),  # a layer alone
        (nn.LSTM(3, 5), torch.randn(7, 2, 3)),  # nested tuples
        (nn.TransformerEncoderLayer(8, 2, 16), torch.randn(5, 2, 8)),  # parameters beside children
        (nn.Embedding(10, 4, sparse=True), torch.tensor([[1, 2], [3, 3]])),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), torch.randn(4, 3)),
        (nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 2, 1)), torch.randn(4, 3, 6)),
        (nn.Sequential(nn.Linear(3, 3), nn.Flatten(), nn.Identity()).double(), torch.ones(4, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_module(model, x):
    x = x.to(next(model.parameters()).dtype) if x.is_floating_point() else x
    with range_report(model) as report:
        y = model(x)
        y = y[0] if isinstance(y, tuple) else y
        y.square().sum().backward()
        with torch.inference_mode():
            model(x)
        model(x)
    elements = sum(parameter.numel() for parameter in model.parameters())
    counted = sum(report.histogram("weights", layer)[1].sum() for layer in report.layers("weights"))
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    assert counted == elements - zeros
    for kind in ("activations", "gradients", "weight_gradients"):
        assert report.layers(kind)
    assert not [layer for layer in report.layers("activations") if "parametrizations" in layer]


def test_frozen_layers_and_no_backward():
    model = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1))
    with range_report(model) as report:
        model(torch.rand(2, 3)).sum().backward()
    assert report.layers("weight_gradients") == report.layers("gradients") == ["1"]
    with torch.no_grad(), range_report(model) as report:
        model(torch.rand(2, 3))
    assert report.layers("gradients") == [] and report.layers("activations") == ["0", "1"]


def test_autocast_and_a_gradient_scaler():
    model, x = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 1)),
        torch.rand(3, 4),
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reports = []
    for scale in (1.0, 2.0**10):
        model.zero_grad()
        with range_report(model, loss_scale=scale) as report:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(x).float().square().mean()
            (scaler.scale(loss) if scale > 1 else loss).backward()
        reports.append(report)
    scaler.step(optimizer)  # a report in between does not disturb it
    for kind in ("activations", "gradients", "weight_gradients"):
        for layer in reports[0].layers(kind):
            assert reports[0].shares(kind, layer) == reports[1].shares(kind, layer)


def test_the_first_that_is_not_finite_is_named():
    class Square(nn.Module):
        def forward(self, x):
            return (x.half() * x.half()).float()

    model = nn.Sequential(nn.Linear(2, 2), Square(), nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, 200.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with range_report(model) as report:
        for _ in range(3):  # from the second step on, everything is NaN
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert report.shares("activations", "0").not_finite > 0
    assert report.first_not_finite() == ("activations", "1")
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with range_report(model) as report:
        (model(torch.ones(1, 2)) * 0).sum().sqrt().backward()  # finite, with an infinite slope
    assert report.first_not_finite() == ("gradients", "1")
    with range_report(nn.Linear(2, 2)) as report:
        pass
    assert report.first_not_finite() is None


def test_range_report_refuses():
    with pytest.raises(TypeError, match=r"expected an nn\.Module, such as a network, got function"):
        range_report(lambda x: x).__enter__()
    with pytest.raises(ValueError, match=r"1000\.0 is not a power of two"):
        range_report(nn.Linear(1, 1), loss_scale=1000.0).__enter__()
