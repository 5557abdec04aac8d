"""Every notebook keeps the course's contract: executed, canonical, readable without a kernel.

That the outputs are true is nbval's business (`pytest notebooks`); here nothing is executed.
"""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from course.execute import canonical, dumps, notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

ALL = notebooks()
LINES = 25  # of a code cell
COLUMNS = 100  # of a line of code
CELLS = 50  # of a notebook; one that needs more is two notebooks
CODE_LINES = 350  # of a notebook, blank ones not counted
BYTES = 1_000_000  # of a file: a larger one is shown slowly or not at all, and each version is kept
TAGS = {"nbval-ignore-output"}
SKIPPED: set[str] = set()  # "notebook.ipynb#cell-id" of cells that nbval may skip
SETUP = """\
import matplotlib.pyplot as plt
import torch

import pconv
from course import checks, plots

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu\""""
PARTS = ["**You will do**", "**You will learn**", "**You will need**"]
SECTIONS = ["## Exercises", "## What you saw", "## Go further", "## References"]
PICTURES = {"image/png", "image/jpeg"}
SHOWS = re.compile(r"^(print|plt\.show|interact|checks\.\w+)\(", re.M)
MEASURED = re.compile(
    r"\d\s?[x×](?![\w×])(?!\s?\d)"  # 1.4x, 150 ×; not 3x3, 2 × 2
    r"|\d\s?(dB|GB|GiB|MB|MiB|ms|samples/s|images/s|TFLOPS)\b"
    r"|\d\.\d+\s?s\b"
    r"|\d\s?%\s(faster|slower|less|more|fewer)\b"
)
MACHINE = re.compile(r"/(home|root|tmp|work|Users|mnt)/\w|[A-Z]:\\\w")


def problems(path: Path) -> list[str]:
    """All that is wrong with a notebook, in words."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    issues = (
        []
        if text == dumps(canonical(copy.deepcopy(notebook)))
        else ["not in canonical form: run make notebooks"]
    )
    issues += _invalid(notebook) + _size_problems(text, notebook)
    issues += _code_problems(path, notebook) + _prose_problems(path, notebook)
    return issues + (_solution_problems if path.parent.name == "solutions" else _lesson_problems)(
        path, notebook
    )


def _invalid(notebook) -> list[str]:
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {error.message}"]
    return []


def _size_problems(text: str, notebook) -> list[str]:
    lines = sum(
        bool(line.strip())
        for cell in notebook.cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
    )
    counts = (
        (len(notebook.cells), CELLS, "cells"),
        (lines, CODE_LINES, "lines of code"),
        (len(text.encode()), BYTES, "bytes"),
    )
    return [f"{count} {what}, at most {most}" for count, most, what in counts if count > most]


def _code_problems(path: Path, notebook) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    issues = []
    if not cells or cells[0].source != SETUP:
        issues.append("the first code cell is not the setup cell")
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        issues.append("execution counts are not 1, 2, 3, ...: not executed top to bottom")
    ignored = [cell for cell in cells if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    if len(ignored) > max(2, len(cells) // 4):
        issues.append(f"{len(ignored)} of {len(cells)} code cells ignore their output: too many")
    for cell in cells:
        issues += [f"cell {cell.id}: {problem}" for problem in _cell_problems(path, cell)]
    return issues


def _cell_problems(path: Path, cell) -> list[str]:
    issues, source, tags = [], cell.source, set(cell.metadata.get("tags", []))
    if len(source.splitlines()) > LINES:
        issues.append(f"{len(source.splitlines())} lines, at most {LINES}")
    if (widest := max(map(len, source.splitlines()), default=0)) > COLUMNS:
        issues.append(f"a line of {widest} columns, at most {COLUMNS}")
    if "nbval-skip" in tags:
        if f"{path.name}#{cell.id}" not in SKIPPED:
            issues.append("nbval-skip, and it is not on the list")
    elif tags - TAGS:
        issues.append(f"unknown tags {sorted(tags - TAGS)}")
    if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", source):
        issues.append("a comment steers nbval: use a cell tag")
    if re.search(r"^\s*([%!]\s*)?(pip|conda)\s|sys\.path|os\.chdir", source, re.M):
        issues.append("installs something or plays with paths")
    if re.search(r"^\s*%", source, re.M):
        issues.append("a magic: an unknown one hides what it raises")
    if (
        re.search(r"^interact|interactive_output\(|^\w+ = interact", source, re.M)
        and "nbval-ignore-output" not in tags
    ):
        issues.append("a widget's output is compared: tag it nbval-ignore-output")
    if MACHINE.search(source):
        issues.append("a path of one machine")
    return issues + _output_problems(cell)


def _output_problems(cell) -> list[str]:
    issues, kinds = [], set()
    if SHOWS.search(cell.source) and not cell.outputs:
        issues.append("its output is missing")
    for output in cell.outputs:
        kinds.update(output.get("data", {}))
        if output.output_type == "error":
            issues.append(f"raises {output.ename}")
        if output.get("name") == "stderr":
            issues.append("prints to stderr")
        if MACHINE.search(
            output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        ):
            issues.append("prints a path of one machine")
    if "image/svg+xml" in kinds:
        issues.append("an SVG figure: PNG")
    if any("widget-view" in kind for kind in kinds):
        issues.append("widget state is stored")
    if re.search(r"^plt\.show\(\)", cell.source, re.M) and not kinds & PICTURES:
        issues.append("plt.show() without a figure")
    if (
        "plt.show()" not in cell.source
        and cell.outputs
        and re.search(r"^plots\.(pictures|numbers|curves)", cell.source)
    ):
        issues.append("a figure that plt.show() does not end")
    return issues


def _prose_problems(path: Path, notebook) -> list[str]:
    issues = []
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if not notebook.cells or not notebook.cells[0].source.startswith("# "):
        issues.append("it does not open with a title")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"https?://|mailto:", target):
            file = (path.parent / target.partition("#")[0]).resolve()
            if target.partition("#")[0] and not file.exists():
                issues.append(f"dead link: {target}")
    if re.search(r"(?<!\()https?://", prose):
        issues.append("a bare link")
    plain = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|`[^`]*`|\]\([^)]*\)", " ", prose, flags=re.S)
    plain = "\n".join(
        line for line in plain.splitlines() if not (line.startswith(">") and "talk" in line)
    )
    if match := MEASURED.search(plain):
        issues.append(f"a measurement is typed into prose: {match.group()!r}")
    if match := re.search(r"\S (-|[2-9]\.) +[a-z`].*", plain):
        issues.append(f"an item of a list is not on a line of its own: {match.group()!r}")
    if MACHINE.search(prose):
        issues.append("prose has a path of one machine")
    return issues


def _lesson_problems(path: Path, notebook) -> list[str]:
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    issues = [f"no {part}" for part in PARTS if part not in (prose or [""])[0]]
    if not re.search(r"^!\[[^\]]+\]\(images/", (prose or [""])[0], re.M):
        issues.append(
            "no picture in the title cell, or none with a text for those who do not see it"
        )
    if not any(re.search(r"^\*\*Predict:\*\* .*\?", text, re.M) for text in prose):
        issues.append("no **Predict:** with a question before a cell that surprises")
    if not any(re.search(r"^## What you saw\n+\|.+\|\n\|[ -|:]+\|", text, re.M) for text in prose):
        issues.append("What you saw is not a table")
    at = [
        next((i for i, text in enumerate(prose) if section in text), None) for section in SECTIONS
    ]
    issues += [f"no section {section}" for section, index in zip(SECTIONS, at) if index is None]
    if not any("](../README.md" in text for text in prose):
        issues.append("no link to all notebooks")
    if not any("<details>" in text for text in prose):
        issues.append("no hint in <details>")
    if not (path.parent / "solutions" / path.name).is_file():
        issues.append("no solutions")
    if not any(re.search(r"\binteract\(|MaskPainter\(", cell.source) for cell in code):
        issues.append("no interactive control")
    exercises = [cell for cell in code if re.search(r"^checks\.", cell.source, re.M)]
    if not 2 <= len(exercises) <= 3:
        issues.append(f"{len(exercises)} exercises with a check, expected 2 or 3")
    if any("not attempted yet" not in str(cell.outputs) for cell in exercises):
        issues.append("an exercise's stub does not say 'not attempted yet'")
    return issues


def _solution_problems(path: Path, notebook) -> list[str]:
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    printed = str([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    issues = [] if (path.parents[1] / path.name).is_file() else ["solutions of no notebook"]
    if f"](../{path.name})" not in prose:
        issues.append("no link to its notebook")
    if "not attempted" in printed or "not right" in printed or ": right." not in printed:
        issues.append("an exercise is not solved")
    return issues


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_contract(path):
    assert problems(path) == []


def test_the_minutes_of_a_lesson_are_the_same_everywhere():
    folder = ALL[0].parent
    teaching = (folder / "TEACHING.md").read_text(encoding="utf-8")
    readme = (folder.parent / "README.md").read_text(encoding="utf-8")
    for path in ALL:
        if path.parent != folder:
            continue
        title = nbformat.read(path, as_version=4).cells[0].source.replace("One hour", "60 minutes")
        (minutes,) = re.findall(r"(\d+) minutes\s+to\s+read", title)
        assert re.search(rf"^\| {path.name[:2]} \|.* \| {minutes} \|$", readme, re.M), path.name
        row = re.search(
            rf"^\| {path.name[:2]} \| \[(.*)\]\({path.name}\) \| (\d+) min", teaching, re.M
        )
        assert row and row[2] == minutes, path.name
        assert f"# {int(path.name[:2])} · {row[1]}\n" in title, path.name


def test_there_are_notebooks():
    assert [path for path in ALL if path.parent.name == "solutions"]


def test_sanitize_patterns_are_read():
    """nbval drops a `regex:` whose `replace:` is not on the next line, without a word."""
    from nbval.plugin import get_sanitize_patterns

    text = (ALL[0].parent / "course" / "nbval_sanitize.cfg").read_text()
    patterns = get_sanitize_patterns(text)
    assert (
        len(patterns)
        == len(re.findall("^regex:", text, re.M))
        == len(re.findall("^replace:", text, re.M))
        > 0
    )
    assert re.sub(*patterns[0], "<f at 0x7f12ab>") == "<f at ADDRESS>"


# Each way to break the contract, and the words that name it


def _cell(notebook, kind="code", index=0):
    return [cell for cell in notebook.cells if cell.cell_type == kind][index]


def _with_output(**output):
    def damage(notebook):
        _cell(notebook, index=1).outputs.append(new_output(**output))

    return damage


def _add_code(source, tags=None, outputs=()):
    def damage(notebook):
        count = sum(cell.cell_type == "code" for cell in notebook.cells) + 1
        cell = new_code_cell(source, execution_count=count, outputs=list(outputs))
        if tags:
            cell.metadata["tags"] = tags
        notebook.cells.append(cell)

    return damage


def _add_prose(text):
    return lambda notebook: notebook.cells.append(new_markdown_cell(text))


def _replace(old, new, kind="markdown"):
    def damage(notebook):
        hits = [cell for cell in notebook.cells if cell.cell_type == kind and old in cell.source]
        assert hits, f"{old!r} is not there to be broken"
        for cell in hits:
            cell.source = cell.source.replace(old, new)

    return damage


def _uncontrolled(notebook):
    for cell in notebook.cells:
        cell.source = cell.source.replace("interact(", "print(").replace("MaskPainter(", "print(")


def _strip(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def _drop_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []


def _ignore_all(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = ["nbval-ignore-output"]


def _untag(notebook):
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)


def _attempt(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "not attempted" in output.get("text", ""):
                output.text = "Exercise 1: right."


STREAM = {"output_type": "stream", "name": "stdout", "text": "a\n"}
BROKEN = {
    "stripped": (_strip, "execution counts"),
    "no outputs": (_drop_outputs, "output is missing"),
    "count": (lambda nb: _cell(nb, index=1).update(execution_count=9), "execution counts"),
    "stderr": (_with_output(output_type="stream", name="stderr", text="w"), "prints to stderr"),
    "error": (_with_output(output_type="error", ename="E", evalue="", traceback=[]), "raises E"),
    "svg": (_with_output(output_type="display_data", data={"image/svg+xml": "<svg/>"}), "SVG"),
    "widget view": (
        _with_output(
            output_type="display_data", data={"application/vnd.jupyter.widget-view+json": {}}
        ),
        "widget state is stored",
    ),
    "widget state": (lambda nb: nb.metadata.update(widgets={}), "canonical"),
    "timestamps": (lambda nb: _cell(nb).metadata.update(execution={}), "canonical"),
    "version": (lambda nb: nb.metadata.language_info.update(version="3.11"), "canonical"),
    "cut stream": (
        lambda nb: _add_code("print()", None, [new_output(**STREAM)] * 2)(nb),
        "canonical",
    ),
    "wide line": (_add_code("x = " + "1" * COLUMNS), "columns, at most"),
    "many cells": (lambda nb: [_add_prose("x")(nb) for _ in range(CELLS)], "cells, at most"),
    "much code": (
        lambda nb: [
            _add_code("\n".join(["x = 1"] * LINES))(nb) for _ in range(CODE_LINES // LINES + 1)
        ],
        "lines of code, at most",
    ),
    "large file": (
        _with_output(output_type="display_data", data={"image/png": "A" * BYTES}),
        "bytes, at most",
    ),
    "long cell": (_add_code("\n".join(["x = 1"] * (LINES + 1))), "lines, at most"),
    "skip": (_add_code("x = 1", ["nbval-skip"]), "not on the list"),
    "tag typo": (_add_code("x = 1", ["nbval-ignore-outputs"]), "unknown tags"),
    "comment tag": (_add_code("# NBVAL_IGNORE_OUTPUT\nx = 1"), "steers nbval"),
    "all ignored": (_ignore_all, "too many"),
    "interact": (_add_code("interact(f, n=(0, 1));", None, [new_output(**STREAM)]), "tag it"),
    "pip": (_add_code("!pip install pconv"), "installs"),
    "pip magic": (_add_code("%pip install pconv"), "installs"),
    "path games": (_add_code('import sys\nsys.path.append("..")'), "plays with paths"),
    "magic": (_add_code("%timeit 1"), "a magic"),
    "no figure": (_add_code("plt.show()", None, [new_output(**STREAM)]), "without a figure"),
    "open figure": (_add_code("plots.pictures([])", None, [new_output(**STREAM)]), "does not end"),
    "machine path": (_add_code('open("/home/me/photo.jpg")'), "path of one machine"),
    "printed path": (
        _with_output(output_type="stream", name="stdout", text="/tmp/x1\n"),
        "prints a path of one machine",
    ),
    "setup": (lambda nb: _cell(nb).update(source="import torch"), "setup cell"),
    "title": (lambda nb: _cell(nb, "markdown").update(source="A title"), "open with a title"),
    "dead link": (_add_prose("[02](02_nowhere.ipynb)"), "dead link: 02_nowhere.ipynb"),
    "dead picture": (_add_prose("![a](images/nowhere.png)"), "dead link"),
    "bare link": (_add_prose("https://arxiv.org"), "bare link"),
    "speed": (_add_prose("It is 1.4x as fast."), "typed into prose: '4x'"),
    "speed sign": (_add_prose("It is 1.8× as fast."), "typed into prose"),
    "seconds": (_add_prose("It takes 3.2 s."), "typed into prose"),
    "memory": (_add_prose("It takes 12 GB."), "typed into prose"),
    "items": (_add_prose("- one thing - another\n- a third"), "not on a line of its own"),
    "numbered items": (_add_prose("1. one thing 2. another"), "not on a line of its own"),
    "percent": (_add_prose("It is 30 % faster."), "typed into prose"),
}
BROKEN_LESSON = {
    "no You will do": (_replace("**You will do**", "Do"), "no **You will do**"),
    "no You will learn": (_replace("**You will learn**", "Learn"), "no **You will learn**"),
    "no You will need": (_replace("**You will need**", "Need"), "no **You will need**"),
    "no Exercises": (_replace("## Exercises", "## Tasks"), "no section ## Exercises"),
    "no What you saw": (_replace("## What you saw", ""), "no section ## What you saw"),
    "no Go further": (_replace("## Go further", ""), "no section ## Go further"),
    "no picture": (_replace("](images/", "](../images/"), "no picture in the title cell"),
    "no Predict": (_replace("**Predict:**", "What now?"), "no **Predict:**"),
    "no table": (_replace("## What you saw\n", "## What you saw\n\nA lot.\n"), "not a table"),
    "no References": (_replace("## References", ""), "no section ## References"),
    "no index": (_replace("](../README.md", "](."), "no link to all notebooks"),
    "no hint": (_replace("<details>", ""), "no hint"),
    "no control": (_uncontrolled, "no interactive control"),
    "untagged control": (_untag, "tag it"),
    "no check": (_replace("checks.", "", "code"), "0 exercises"),
    "solved stub": (_attempt, "not attempted yet"),
}
BROKEN_SOLUTION = {
    "no way back": (_replace("](../01_", "](../../notebooks/01_"), "no link to its notebook"),
    "unsolved": (
        lambda nb: _with_output(**{**STREAM, "text": "Exercise 1: not attempted yet"})(nb),
        "not solved",
    ),
    "wrong": (
        lambda nb: _with_output(**{**STREAM, "text": "Exercise 1: not right yet."})(nb),
        "not solved",
    ),
}


@pytest.fixture
def copied(tmp_path):
    """A sound lesson and its solutions in a folder of their own, with what they link to."""
    (tmp_path / "notebooks" / "solutions").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# pconv\n")
    (tmp_path / "notebooks" / "images").symlink_to(ALL[0].parent / "images")
    for path in ALL:  # it links to its neighbours
        (tmp_path / "notebooks" / path.name).touch()
    lesson = tmp_path / "notebooks" / "01_partial_convolution.ipynb"
    for source, target in (
        (ALL[0], lesson),
        (ALL[0].parent / "solutions" / ALL[0].name, lesson.parent / "solutions" / lesson.name),
    ):
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return lesson


def _damage(path, damage):
    notebook = nbformat.read(path, as_version=4)
    damage(notebook)
    path.write_text(dumps(notebook), encoding="utf-8")
    return problems(path)


def test_a_sound_copy_has_no_problem(copied):
    assert problems(copied) == [] == problems(copied.parent / "solutions" / copied.name)


@pytest.mark.parametrize("name", BROKEN | BROKEN_LESSON)
def test_a_broken_lesson_is_noticed(copied, name):
    damage, words = (BROKEN | BROKEN_LESSON)[name]
    assert any(words in problem for problem in _damage(copied, damage)), problems(copied)


@pytest.mark.parametrize("name", sorted((BROKEN | BROKEN_SOLUTION).keys()))
def test_broken_solutions_are_noticed(copied, name):
    damage, words = (BROKEN | BROKEN_SOLUTION)[name]
    solutions = copied.parent / "solutions" / copied.name
    assert any(words in problem for problem in _damage(solutions, damage)), problems(solutions)


def test_a_missing_partner_is_noticed(copied):
    solutions = copied.parent / "solutions" / copied.name
    kept = solutions.read_text(encoding="utf-8")
    solutions.unlink()
    assert "no solutions" in problems(copied)
    solutions.write_text(kept, encoding="utf-8")
    copied.unlink()
    assert "solutions of no notebook" in problems(solutions)


def test_a_missing_newline_is_noticed(copied):
    copied.write_text(copied.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    assert any("canonical" in problem for problem in problems(copied))


def test_what_is_no_measurement_passes(copied):
    text = "A 3x3 window, 2 × 2, 512×512, ×2, ratio 1.5, `1.4x`, $1.4\\times$."
    text += "\n\n> the talk: AMP trains 1.4x as fast"
    assert _damage(copied, _add_prose(text)) == []
