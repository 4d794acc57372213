"""Text, whole lines at a time: JSON lines in a file or on stdout, and what a CSV file shares with them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from edgecnn.camera.sink import BaseSink, refuse_source
from edgecnn.camera.uri import display_path
from edgecnn.errors import OutputError, OutputExistsError
from edgecnn.files import check_output

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["JsonLinesSink", "LinesSink", "StdoutSink", "json_line"]


class LinesSink(BaseSink):
    """A file that is written in place, whole lines at a time, for classes that say which `_lines`.

    Not under a temporary name as other files: this one is valid after every line, `tail -f` follows it,
    and a service that loses power after a week has lost nothing. "Never half a file" holds frame by frame:
    lines that do not fit on the disk are taken back, and OutputError leaves the lines before them.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        self._path = check_output(path, force=force)
        self._force = force
        self.name = display_path(path)
        self._file: int | None = None
        self._length = 0

    def _lines(self, output: Output) -> bytes:
        """What one output adds, each line with its end."""
        raise NotImplementedError

    def _write(self, output: Output) -> None:
        lines = self._lines(output)
        try:
            if self._file is None:
                refuse_source(self._path, output)
                creation = os.O_TRUNC if self._force else os.O_EXCL
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | creation, 0o666)
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written:])
        except FileExistsError as error:
            raise OutputExistsError(f"{self.name} exists", got="a file that appeared meanwhile") from error
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot write {self.name}",
                got=os.strerror(error.errno or 0),
                remedy=f"Its {self._length} bytes are whole lines",
            ) from error
        self._length += len(lines)

    def _finish(self) -> None:
        if self._file is None:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(f"cannot finish {self.name}", got=os.strerror(error.errno or 0)) from error
        finally:
            os.close(self._file)

    def _abandon(self, error: OSError) -> None:
        if self._file is not None:
            os.ftruncate(self._file, self._length)
            os.close(self._file)


class JsonLinesSink(LinesSink):
    """A `.jsonl` file: one object a frame, in the form that `Output.to_dict` gives."""

    def _lines(self, output: Output) -> bytes:
        return json_line(output)


class StdoutSink(BaseSink):
    """JSON lines on stdout, each flushed, so that the program behind a pipe sees a frame when it happens.

    Where that program has gone, `write` raises BrokenPipeError, as Python does: no output is at fault.
    """

    name = "-"

    def _write(self, output: Output) -> None:
        try:
            sys.stdout.flush()  # what was printed before comes before
            sys.stdout.buffer.write(json_line(output))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError("cannot write to stdout", got=os.strerror(error.errno or 0)) from error


def json_line(output: Output) -> bytes:
    """One output as JSON, with the end of the line."""
    import msgspec

    return msgspec.json.encode(output.to_dict()) + b"\n"
