"""Files that are written whole or not at all, and JSON."""

import json
import math

import pytest

from pconv.files import atomic_write, write_json


@pytest.mark.parametrize("old", [None, "old"])
def test_replacing_is_all_or_nothing(tmp_path, old):
    path = tmp_path / "result.txt"
    if old:
        path.write_text(old)
    with pytest.raises(OSError, match="disk is full"), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
        assert (path.read_text() if old else path.exists()) == (old or False)
        raise OSError("disk is full")
    assert [file.read_text() for file in tmp_path.iterdir()] == ([old] if old else [])
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_an_error_before_anything_was_written_is_the_one_raised(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "result.txt"):
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [[], [{"step": 10, "total": 1 / 3}, {"step": 20, "psnr": 20.5}]])
def test_json_is_the_rows(rows, tmp_path):
    write_json(str(tmp_path / "rows.json"), rows)
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_json_of_a_record_holds_its_rows_and_null_for_nan(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, [{"psnr": math.nan, "l1": 0.5}], {"seed": 3})

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record == {"seed": 3, "rows": [{"psnr": None, "l1": 0.5}]}
