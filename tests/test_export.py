"""The shipped model as ONNX, exported, compiled: any size, NaN in its holes, the same numbers."""

import copy

import numpy as np
import onnx
import pytest
import torch
from helpers import assert_refused

from pconv import PConvUNet, load_pretrained, load_weights, random_holes, save_weights
from pconv.cli import main
from pconv.export import AXES, OPSET, compare_onnx, export_onnx, make_example
from pconv.photos import bundled_photos, to_tensor

onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.compile
SIZES = [(37, 53), (256, 256), (300, 451), (512, 512), (16, 16), (64, 200)]


@pytest.fixture(scope="module")
def model():
    return load_pretrained()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped weights, as the command exports them."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    main(["export", "-o", str(path)])
    return path


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])


def run(session, image, mask):
    return session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0]


def test_inputs_outputs_and_opset_have_names(exported, session):
    onnx.checker.check_model(str(exported))
    (opset,) = onnx.load(str(exported)).opset_import
    assert (opset.domain, opset.version) == ("", OPSET)
    image, mask = session.get_inputs()
    assert (image.name, image.type, image.shape) == (
        "image",
        "tensor(float)",
        ["batch", 3, "height", "width"],
    )
    assert (mask.name, mask.type, mask.shape) == (
        "mask",
        "tensor(bool)",
        ["batch", 1, "height", "width"],
    )
    (output,) = session.get_outputs()
    assert output.name == "output"
    assert not exported.with_suffix(".onnx.data").exists()  # one file


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_it_gives_what_pytorch_gives_with_nan_in_the_holes(name, size, session, model):
    photos = bundled_photos() | bundled_photos(held_out=True)
    photo = np.tile(photos[name], (2, 2, 1))[: size[0], : size[1]]
    holes = random_holes(*size, (0.1, 0.3), np.random.default_rng(size[0]))
    mask, image = torch.from_numpy(~holes)[None, None], to_tensor(photo).contiguous()
    with torch.inference_mode():
        expected = model(image, mask).numpy()
    actual = run(session, torch.where(mask, image, torch.nan), mask)
    assert actual.shape == expected.shape == (1, 3, *photo.shape[:2])
    # Where two patches suit a place equally well, rounding decides, in PyTorch, too: not one bit is
    # the same there. All else is.
    difference = np.abs(actual - expected)[:, :, holes]
    assert (difference < 1e-4).mean() > 0.95 and np.median(difference) < 1e-5
    other = run(session, torch.where(mask, image, 1e30), mask)
    assert np.array_equal(actual, other)


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A U-Net that copies nothing, and its session."""
    torch.manual_seed(0)
    unet = PConvUNet(widths=(8, 12, 16), residual=True)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("onnx") / "unet.onnx"
    export_onnx(unet, path)
    return unet.eval(), path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_unet_alone_gives_the_same_everywhere(batch, size, unet):
    model, path = unet
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image, mask = make_example(batch, 3, *size)
    with torch.inference_mode():
        expected = model(image, mask).numpy()
    actual = run(session, torch.where(mask, image, torch.inf), mask)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.ptp(expected) > 0.5


def test_the_check_of_the_command_sees_another_model(unet):
    model, path = unet
    assert compare_onnx(model, path, (48, 56)) < 1e-5
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.encoder[0].conv.weight.mul_(1.1)
    assert compare_onnx(other, path, (48, 56)) > 1e-4


def test_what_the_command_says_and_refuses(exported, tmp_path, capsys, monkeypatch):
    assert_refused(capsys, ["export", "-o", exported], "exists: --force overwrites it")
    words = "name a file that ends in .onnx"
    assert_refused(capsys, ["export", "-o", tmp_path / "model.pt"], words, unchanged=tmp_path)
    monkeypatch.setattr("pconv.cli.export.find_spec", lambda name: None)
    words = "this needs onnx: pip install 'pconv[export]'"
    assert_refused(capsys, ["export", "-o", tmp_path / "a.onnx"], words, unchanged=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("pconv.cli.export.export_onnx", lambda model, path, opset: path.touch())
    monkeypatch.setattr("pconv.cli.export.compare_onnx", lambda *arguments: 2e-6)
    main(["export", "-o", str(tmp_path / "new" / "a.onnx"), "--opset", "20"])
    out = capsys.readouterr().out
    assert "0.0 MB, opset 20, any height, width and batch" in out
    assert "160×96 pixels differ by 2.0e-06 at most" in out


def test_a_failed_export_leaves_the_old_file(tmp_path, model, monkeypatch):
    class Program:
        def save(self, path):
            raise OSError("no room")

    monkeypatch.setattr("torch.onnx.export", lambda *arguments, **options: Program())
    (tmp_path / "model.onnx").write_bytes(b"precious")
    with pytest.raises(OSError, match="no room"):
        export_onnx(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"precious"


@pytest.mark.skipif(
    torch.__version__ < (2, 15),
    reason="torch.export of 2.9 keeps whether a size is even; its ONNX files do not",
)
def test_torch_export_with_dynamic_sizes(model):
    from torch.fx.experimental import _config

    contiguous = load_pretrained().to(memory_format=torch.contiguous_format)
    sizes = {axis: torch.export.Dim.DYNAMIC for axis in AXES}
    with _config.patch(backed_size_oblivious=True):
        program = torch.export.export(
            contiguous, make_example(2, 3, 90, 134), dynamic_shapes=(sizes, sizes)
        )
    exported = program.module()
    for batch, height, width in ((1, 37, 53), (2, 90, 134), (1, 128, 72), (3, 65, 33)):
        image, mask = make_example(batch, 3, height, width)
        with torch.inference_mode():
            expected = model(image, mask)
            torch.testing.assert_close(exported(image, mask), expected, atol=1e-3, rtol=0)


def test_compiled_with_dynamic_sizes_in_one_graph(model):
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for height, width in ((64, 96), (37, 53)):
        image, mask = make_example(1, 3, height, width)
        with torch.inference_mode():
            expected = model(image, mask)
            torch.testing.assert_close(compiled(image, mask), expected, atol=1e-3, rtol=0)


def test_mask_trace(tmp_path, capsys):
    """The masks of the shipped weights, by the command, and of another network: mask_trace's."""
    path = tmp_path / "masks.onnx"
    small = tmp_path / "small.safetensors"
    save_weights(PConvUNet(widths=(4, 8)), small)
    for weights in (None, small):
        model = load_pretrained() if weights is None else load_weights(weights)
        flags = [] if weights is None else ["--weights", str(weights), "--force"]
        main(["export", "--mask-trace", "-o", str(path), *flags])
        assert "the mask after every layer" in capsys.readouterr().out
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        for batch, height, width in ((1, 384, 384), (2, 37, 53), (1, 16, 300)):
            _, mask = make_example(batch, 3, height, width)
            expected = model.mask_trace(mask)
            assert names == [name for name, _ in expected]
            for actual, (_, new_mask) in zip(
                session.run(None, {"mask": mask.numpy()}), expected, strict=True
            ):
                np.testing.assert_array_equal(actual, new_mask.numpy())
