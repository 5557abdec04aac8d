"""`pconv export`: weights as an ONNX file."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from pconv.cli.common import (
    add_command,
    check_not_overwritten,
    check_output_file,
    cli_errors,
    positive_int,
)
from pconv.export import OPSET, compare_onnx, export_mask_trace, export_onnx
from pconv.inpainting import load_photo_weights, pretrained_file

_CHECKED_SIZE = (96, 160)


def add_parser(commands) -> None:
    parser = add_command(
        commands,
        "export",
        run,
        "Write weights as ONNX, for programs without PyTorch.",
        weights=None,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument(
        "--opset", type=positive_int, default=OPSET, help="version of ONNX's operators"
    )
    parser.add_argument(
        "--mask-trace",
        action="store_true",
        help="write what the masks do instead: a mask in, the mask after every layer out",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        for library in ("onnx", "onnxscript"):
            if find_spec(library) is None:
                raise ValueError(f"this needs {library}: pip install 'pconv[export]'")
        if options.output.suffix != ".onnx":
            raise ValueError(f"{options.output}: name a file that ends in .onnx")
        check_not_overwritten(options.output, options.force)
        model = load_photo_weights(options.weights or pretrained_file())
        check_output_file(options.output)
    if options.mask_trace:
        export_mask_trace(model, options.output, options.opset)
        print(f"{options.output}: opset {options.opset}, any height, width and batch")
        print("in: mask, bool (N, 1, H, W), True = valid")
        print("out: float32 (N, 1, H', W'), the mask after every layer, by the layer's name")
        return
    print("Exporting takes a minute ...", flush=True)
    export_onnx(model, options.output, options.opset)
    size = options.output.stat().st_size / 2**20
    print(f"{options.output}: {size:.1f} MB, opset {options.opset}, any height, width and batch")
    print("in: image, float32 (N, 3, H, W) in [0, 1]; mask, bool (N, 1, H, W), True = valid")
    print("out: output, float32 (N, 3, H, W), to be used in the holes")
    if find_spec("onnxruntime"):
        difference = compare_onnx(model, options.output, _CHECKED_SIZE)
        height, width = _CHECKED_SIZE
        print(f"In onnxruntime, {width}×{height} pixels differ by {difference:.1e} at most.")
