"""The files around the package agree with each other and with it."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import readme_tables
import record_numerics
import yaml
from helpers import HOLES, PHOTO, TRAIN
from PIL import Image

import pconv

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def _requirements(lines) -> dict[str, str]:
    pairs = (re.fullmatch(r"([\w.-]+)\s*(.*)", line).groups() for line in lines)
    return {name.lower().replace("_", "-"): rest for name, rest in pairs}


def test_environment_yml_agrees_with_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    optional = PROJECT["optional-dependencies"]
    check = [line for line in optional["dev"] if re.match(r"(nbval|pytest)\b(?!-)", line)]
    assert len(check) == 2  # what `pytest notebooks` needs
    expected = _requirements([*PROJECT["dependencies"], *optional["course"], *check])
    expected = {CONDA_NAMES.get(name, name): range_ for name, range_ in expected.items()}
    expected |= {"python": PROJECT["requires-python"], "pip": ""}
    assert _requirements(conda["dependencies"]) == expected


def test_constraints_pin_every_requirement_inside_its_range():
    from packaging.specifiers import SpecifierSet

    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    # so no address and no local build either
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pins = {name: pin.removeprefix("==") for name, pin in _requirements(lines).items()}
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        for name, allowed in _requirements(group).items():
            assert pins[name] in SpecifierSet(allowed), name


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert pconv.__version__ == PROJECT["version"] == citation["version"]
    cited = " ".join(str(reference) for reference in citation["references"])
    assert all(
        work in cited
        for work in ("1804.07723", "1811.11718", "Mixed Precision Training for Image Inpainting")
    )


def test_readme_links_resolve():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README + CONTRIBUTING)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE))
    assert {"demo", "test", "lab"} <= commands <= targets


def test_oldest_torch_that_is_tested_is_the_oldest_that_is_allowed():
    makefile = (ROOT / "Makefile").read_text()
    for name in ("torch", "torchvision"):
        (allowed,) = (
            d.partition(">=")[2] for d in PROJECT["dependencies"] if d.startswith(f"{name}>=")
        )
        assert re.findall(rf"{name}==([\d.]+)", makefile) == [f"{allowed}.0"]


def test_readmes_example_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    names = {}
    exec(code, names)
    image, mask, photo, holes, restored = (
        names[n] for n in ("image", "mask", "photo", "holes", "restored")
    )
    assert names["output"].shape == image.shape
    assert names["new_mask"].shape == (1, 1, 100, 150)
    assert not mask.all()
    assert (restored[~holes] == photo[~holes]).all() and (restored[holes] != photo[holes]).any()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone of the repository")
def test_readmes_lines_for_colab_work(tmp_path):
    """In an empty folder, with a clone by its path, the notebooks find all that they import.

    What pip would download is taken from here: the new environment sees this one's packages.
    """
    lines = re.findall(r"^  ([!%].+)$", README, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["!git", "!pip", "%cd"]
    assert "[course]" in lines[1] and "course" in PROJECT["optional-dependencies"]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/*/site-packages")
    (site / "here.pth").write_text(sysconfig.get_path("purelib"))
    script = "\n".join(lines).replace("ADDRESS_OF_THIS_REPOSITORY", shlex.quote(str(ROOT)))
    script = script.replace("!pip", f"{python} -m pip").replace("!git", "git").replace("%cd", "cd")
    cells = nbformat.read(ROOT / "notebooks" / "01_partial_convolution.ipynb", as_version=4).cells
    setup = next(cell.source for cell in cells if cell.cell_type == "code")
    code = f"""{setup}
import anywidget, ipywidgets
from pathlib import Path
assert Path(pconv.__file__).is_relative_to({str(site)!r}), pconv.__file__
assert list(Path("../data/results").glob("*.json"))
pconv.load_pretrained()
print("ready")
"""
    script += f"\n{python} -c {shlex.quote(code)}"
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    owner = {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}  # may be another
    environment = os.environ | offline | owner | {"GIT_CONFIG_COUNT": "1", "MPLBACKEND": "agg"}
    result = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("ready\n")


def test_readme_lists_every_notebook():
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert len(notebooks) == 11
    assert all(f"(notebooks/{name})" in README for name in notebooks)
    numbers = re.findall(r"^\| (\d\d) ", README, re.MULTILINE)
    assert sorted(set(numbers)) == [name[:2] for name in notebooks]


def test_every_test_that_proves_a_part_of_the_talk_exists():
    named = re.findall(r"`(test_\w+)::(test_\w+)`", CONTRIBUTING)
    assert len(named) >= 8
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(), (file, test)


def test_readmes_tables_are_made_from_the_results():
    for name in readme_tables.FILES:
        text = (ROOT / name).read_text()
        assert readme_tables.insert_tables(name, text) == text


def test_recorded_numerics_are_those_of_the_script_and_hold_here():
    facts = [
        fact
        for part in (
            record_numerics.autocast_rules,
            record_numerics.numbers,
            record_numerics.loss_scaling,
        )
        for fact in part("cpu")
    ]
    assert [fact for fact in facts if fact[1] != fact[2]] == []
    files = (ROOT / "data" / "results" / f"numerics_{device}.json" for device in ("cpu", "cuda"))
    cpu, cuda = (json.loads(file.read_text())["rows"] for file in files)
    assert [(row["fact"], row["expected"], row["holds"]) for row in cpu] == [
        (*fact[:2], True) for fact in facts
    ]
    assert [(row["fact"], row["holds"]) for row in cuda] == [(fact[0], True) for fact in facts]


@pytest.mark.parametrize(
    "module", ["matplotlib", "anywidget", "IPython", "jupyterlab", "ipywidgets"]
)
def test_import_pconv_needs_no(module):
    code = f"import sys; sys.modules[{module!r}] = None; import pconv, pconv.cli; "
    code += "[getattr(pconv, name) for name in pconv.__all__]"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names():
    """Code outside this repository imports them."""
    expected = {
        *("PConvUNet", "PartialConv1d", "PartialConv2d", "PartialConv3d"),
        *("PartialPaddingConv2d", "use_partial_padding"),
        *("InpaintingLoss", "LossTerms", "LossWeights", "VGGFeatures", "gram_matrix"),
        *("PRECISIONS", "get_precision", "Trainer", "training_step", "History"),
        *("bundled_photos", "random_holes", "compare", "evaluate"),
        *("inpaint", "load_pretrained", "load_weights", "save_weights"),
    }
    assert set(pconv.__all__) == expected
    assert all(hasattr(pconv, name) for name in expected)


def test_public_names_are_documented():
    for name in pconv.__all__:
        if name != "PRECISIONS":
            assert getattr(pconv, name).__doc__, name


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked as pip does, in a folder from which the repository is not to be seen."""
    tmp_path = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps"]
    build += ["--no-build-isolation", "--wheel-dir", tmp_path, ROOT]
    subprocess.run([*build, "--quiet", "--disable-pip-version-check"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # and no tests, no notebooks
    package, metadata = sorted(path.name for path in (tmp_path / "site").iterdir())
    assert package == "pconv" and metadata.endswith(".dist-info")
    return tmp_path


def run_installed(folder: Path, *arguments: object) -> str:
    """What Python prints there."""
    run = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_plain_install_carries_the_weights_and_the_painter(installed):
    code = "import pconv; print(pconv.__file__); print(pconv.load_pretrained().widths)\n"
    code += "from pconv.painter import MaskPainter as M\n"
    code += "assert 'pconv-painter' in str(M._esm) and str(M._css)"
    place, widths = run_installed(installed, "-c", code).splitlines()
    assert place.startswith(str(installed / "site"))
    assert widths == str(pconv.load_pretrained().widths)


def test_the_commands_of_a_plain_install_work(installed):
    Image.fromarray(PHOTO).save(installed / "photo.png")
    Image.fromarray(HOLES).save(installed / "mask.png")
    pconv_command = ("-m", "pconv")
    run_installed(installed, *pconv_command, "inpaint", "photo.png", "mask.png", "-o", "out.png")
    assert np.array_equal(np.asarray(Image.open(installed / "out.png"))[~HOLES], PHOTO[~HOLES])
    run_installed(installed, *pconv_command, *TRAIN, "--steps", "1", "--out", "run")
    weights = ("--weights", "run/weights.safetensors")
    photos = installed / "photos"
    photos.mkdir()
    (installed / "photo.png").rename(photos / "photo.png")
    measure = ("evaluate", *weights, "--photos", "photos", "--size", "16", "--methods", "damaged")
    assert "damaged" in run_installed(installed, *pconv_command, *measure)
    run_installed(installed, *pconv_command, "export", *weights, "-o", "model.onnx")
    assert (installed / "model.onnx").stat().st_size > 1000
