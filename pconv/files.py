"""Files written whole or not at all, and JSON."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """`with atomic_write(path) as temporary:` write to `temporary`, which then replaces `path`.

    If anything is raised inside, what was at `path` before is still there, and the temporary file
    is removed. An OSError without a file name, such as "No space left on device", gets `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, rows: list[dict], record: dict | None = None) -> None:
    """Writes a list of rows, or `record` with the rows under its key "rows".

    NaN and infinity, for which JSON has no word, become null. Raises OSError.
    """
    rows = [{key: _to_null(value) for key, value in row.items()} for row in rows]
    content = rows if record is None else {**record, "rows": rows}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _to_null(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
