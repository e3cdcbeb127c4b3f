"""The texts of a .parquet file, decoded a few rows at a time, run in a `BoundedProcess`.

A few hundred bytes can stand for gigabytes (a text is stored once and named by each row), and what a file says of its
own size may be false: so the rows are counted as they come, and reading ends where there is too much text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve addresses, which count as memory

import pyarrow  # type: ignore[import-untyped]  # noqa: E402
import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: E402

ROWS = 32  # at a time
Row = str | list[dict[str, str]]


def texts(question: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """The rows of the first of `fields` that is a column, at most `longest` bytes of text; {"problem": why} else."""
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        columns = file.schema_arrow.names
        field = next((one for one in question["fields"] if one in columns), None)
        if field is None:
            has = ", ".join(columns)[:80]
            return {"problem": f"has no column 'text' or 'messages' (it has {has}); rename one"}, b""
        kind = file.schema_arrow.field(field).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_list(kind)):
            what = f"column {field!r} holds {str(kind)[:80]}"
            return {"problem": f"has no texts: its {what}, not strings nor lists of role and content; mend it"}, b""
        rows, length = [], 0
        for row in _rows(file, field):
            length += _length(row)
            if length > question["longest"]:
                return {
                    "problem": f"holds more than {question['longest'] / 1e6:.0f} MB of text; give a part of it"
                }, b""
            rows.append(row)
    except pyarrow.ArrowMemoryError as error:  # a limit that was met, which is no fault of the file's form
        raise MemoryError from error
    except (pyarrow.ArrowException, OSError) as error:
        words = " ".join(str(error).split())[:120]
        return {"problem": f"is no whole parquet file ({words}); save it again"}, b""
    return {"rows": rows}, b""


def _rows(file: Any, field: str) -> Iterator[Row]:
    for batch in file.iter_batches(batch_size=ROWS, columns=[field], use_threads=False):
        for value in batch.column(field).to_pylist():
            yield value if isinstance(value, str) else [_message(one) for one in value or ()] or ""


def _message(value: Any) -> dict[str, str]:
    """Those of role and content that are there, as texts."""
    found = value if isinstance(value, dict) else {}
    return {key: found[key] for key in ("role", "content") if isinstance(found.get(key), str)}


def _length(row: Row) -> int:
    parts = [row] if isinstance(row, str) else [part for message in row for part in message.values()]
    return sum(len(part.encode("utf-8", "replace")) for part in parts)


ANSWERS: dict[str, Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]] = {"texts": texts}
