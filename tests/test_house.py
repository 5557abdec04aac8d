"""The house: which names are public, which way imports run, and how long a file may get."""

import ast
from pathlib import Path

import pytest

import pconv

PACKAGE = Path(pconv.__file__).parent
PUBLIC = {
    "PRECISIONS",
    "History",
    "InpaintingLoss",
    "LossTerms",
    "LossWeights",
    "PConvUNet",
    "PartialConv1d",
    "PartialConv2d",
    "PartialConv3d",
    "PartialPaddingConv2d",
    "Trainer",
    "VGGFeatures",
    "bundled_photos",
    "compare",
    "evaluate",
    "get_precision",
    "gram_matrix",
    "inpaint",
    "load_pretrained",
    "load_weights",
    "random_holes",
    "save_weights",
    "training_step",
    "use_partial_padding",
}
# What one reads in an evening.
EVENING = ("layers", "unet", "losses", "vgg", "precision", "train")
# Each level imports from the levels below it and from its own, never from above.
LEVELS = (
    (
        "averaging",
        "checks",
        "devices",
        "download",
        "files",
        "interpolation",
        "signals",
        "distributed",
        "image_reader",
        "patches",
        "ranges",
    ),
    ("layers", "image_writer", "mask_reader", "photos", "history", "precision"),
    ("texture", "tiles"),
    ("unet", "holes", "checkpoint"),
    ("vgg", "lpips", "data", "export", "inpainting", "baselines"),
    ("losses", "metrics"),
    ("diagnostics",),
    ("train",),
    ("benchmark",),
    ("painter", "cli"),
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_the_public_names():
    assert set(pconv.__all__) == PUBLIC
    assert all(hasattr(pconv, name) for name in PUBLIC)


def test_every_module_can_be_named_after_importing_the_package_alone():
    names = {path.stem for path in PACKAGE.glob("*.py")} | {"cli"}
    for name in names - {"__init__", "__main__"}:
        assert getattr(pconv, name).__name__ == f"pconv.{name}"


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports when it is imported itself."""
    modules = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "pconv":
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pconv."):
            modules.add(node.module.split(".")[1])
    return modules


def room(path: Path) -> str:
    """The module or subpackage that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    if room(path) in ("__init__", "__main__"):
        return
    level = {name: index for index, names in enumerate(LEVELS) for name in names}
    assert all(level[name] <= level[room(path)] for name in imported_modules(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    assert max(map(len, source.splitlines()), default=0) <= 100
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 45, f"{node.name} has {lines} lines"


def test_the_evening_is_an_evening():
    lines = sum(len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in EVENING)
    assert lines <= 1280
