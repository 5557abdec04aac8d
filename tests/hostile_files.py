"""Files that try to run code, to take memory without end, or that are damaged in the middle."""

import io
import json
import os
import struct
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from pconv import PConvUNet

OLD = {"_use_new_zipfile_serialization": False}  # torch.save's format before 1.6


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def saved(value, **options) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def compressed(data: bytes) -> bytes:
    """The same zip file, compressed, as torch.save never writes it."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def with_header(architecture, **metadata) -> bytes:
    """Weights of a tiny net, whose header words that they are of `architecture`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        header = architecture if isinstance(architecture, str) else json.dumps(architecture)
        save_file(PConvUNet(widths=(4,)).state_dict(), path, {"architecture": header, **metadata})
        return path.read_bytes()


def shape(**changes) -> dict:
    return {"in_channels": 3, "out_channels": 3, "widths": [4], "residual": False} | changes


def tensors(change) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        state = {name: change(value) for name, value in PConvUNet(widths=(4,)).state_dict().items()}
        save_file(state, path, {"architecture": json.dumps(shape())})
        return path.read_bytes()


TINY = tensors(lambda value: value)
# name: (folder that its code would make) -> the content of the file
HOSTILE_WEIGHTS = {
    "pickle": lambda mark: saved({"encoder.0.conv.weight": Payload(mark)}),
    "old pickle": lambda mark: saved({"encoder.0.conv.weight": Payload(mark)}, **OLD),
    "cut pickle": lambda mark: saved({"encoder.0.conv.weight": torch.ones(9)}, **OLD)[:60],
    "compressed": lambda mark: compressed(saved({"weight": torch.zeros(2**22)})),
    "length 2**63": lambda mark: struct.pack("<Q", 2**63) + TINY[8:],
    "length 2**40": lambda mark: struct.pack("<Q", 2**40) + TINY[8:],
    "length 99 MB": lambda mark: struct.pack("<Q", 99_000_000) + TINY[8:],
    "bad JSON": lambda mark: struct.pack("<Q", 9) + b"{'a': 1]}",
    "deep JSON": lambda mark: struct.pack("<Q", 10**6) + b"[" * 10**6,
    "beyond the end": lambda mark: TINY.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
    "cut": lambda mark: TINY[:-1],
    "widths 10**9": lambda mark: with_header(shape(widths=[10**9])),
    "widths 10**9, twice": lambda mark: with_header(shape(widths=[10**9, 10**9])),
    "widths that take 3 GB": lambda mark: with_header(shape(widths=[2**12, 2**13])),
    "widths 10**30": lambda mark: with_header(shape(widths=[10**30])),
    "widths -4": lambda mark: with_header(shape(widths=[-4])),
    "widths inf": lambda mark: with_header(shape(widths=[float("inf")])),
    "widths nan": lambda mark: with_header(shape(widths=[float("nan")])),
    "widths of a million levels": lambda mark: with_header(shape(widths=[1] * 10**6)),
    "widths in words": lambda mark: with_header(shape(widths="many")),
    "channels 10**9": lambda mark: with_header(shape(in_channels=10**9)),
    "channels -3": lambda mark: with_header(shape(in_channels=-3)),
    "channels None": lambda mark: with_header(shape(out_channels=None)),
    "brackets": lambda mark: with_header("[" * 10**5),
    "a class": lambda mark: with_header(shape(__class__="os.system")),
    "integers": lambda mark: tensors(lambda value: value.to(torch.int32)),
    "booleans": lambda mark: tensors(lambda value: value.bool()),
}
