"""A table for spreadsheets and pandas: one row for each thing that was found in a frame.

It is made of the result's JSON object, whatever the task:

    {"classes": [{"id", "label", "score"}, …]}               a row a class
    {"boxes_xyxy": […], "scores": […], "labels": […]}        a row a box: lists of one length belong together
    anything else                                            one row

Each row begins with the frame's `index`, `source`, `captured_at`, `age_ms` and `dropped`, and where models
have names, with `model`. Names are those of docs/results.md; one that ends in `_xyxy` becomes the columns x1,
y1, x2, y2. What is no single value stands in its cell as JSON. Text that a spreadsheet would take for
a formula has a quote in front.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecnn.camera.line_sinks import LinesSink
from edgecnn.errors import OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["CsvSink", "rows"]

_BOX = "_xyxy"


class CsvSink(LinesSink):
    """A `.csv` file, UTF-8, with a header. A frame's rows are written together or not at all.

    The first frame in which something was found sets the columns. One in which nothing was found has no row.
    """

    _columns: tuple[str, ...] = ()

    def _lines(self, output: Output) -> bytes:
        frame = output.to_dict()
        results = frame.pop("results") if "results" in frame else {"": frame.pop("result")}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        found = [(model, row) for model, result in results.items() for row in rows(result)]
        for model, cells in found:
            row = {**frame, **({"model": model} if model else {}), **cells}
            if not self._columns:
                self._columns = tuple(row)
                writer.writerow(self._columns)
            elif tuple(row) != self._columns:
                raise OutputError(
                    f"cannot write {self.name}",
                    got=f"columns {', '.join(row)}",
                    expected=f"{', '.join(self._columns)}, as in its first row",
                    remedy="Use FILE.jsonl for results of different kinds",
                )
            writer.writerow(map(_no_formula, row.values()))
        return text.getvalue().encode()


def _no_formula(value: Any) -> Any:
    """A label or a file's name is data: a quote in front keeps spreadsheets from computing what it says."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A result's JSON object as rows: column → number, text or None."""
    lists = {key: value for key, value in result.items() if isinstance(value, list)}
    common = {key: value for key, value in result.items() if key not in lists}
    (first, *_) = [*lists.values(), None]
    if len(lists) == 1 and first is not None and all(isinstance(entry, dict) for entry in first):
        items = first
    elif len(lists) > 1 and len({len(value) for value in lists.values()}) == 1:
        items = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    else:
        items = [lists]
    return [_cells({**common, **item}) for item in items]


def _cells(item: Mapping[str, Any]) -> dict[str, Any]:
    import msgspec

    cells: dict[str, Any] = {}
    for key, value in item.items():
        if key.endswith(_BOX) and isinstance(value, list) and len(value) == 4:
            cells.update(zip(("x1", "y1", "x2", "y2"), value, strict=True))
        elif isinstance(value, (list, dict)):
            cells[key] = msgspec.json.encode(value).decode()
        else:
            cells[key] = value
    return cells
