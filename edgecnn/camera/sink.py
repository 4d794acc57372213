"""Sinks: where outputs go, by URI.

A sink refuses what is there already as soon as it is opened, and creates its file with the first output:
a run that gives nothing leaves nothing. Closing makes the file whole, also after Ctrl-C.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from edgecnn.camera.uri import display_path, mask_credentials
from edgecnn.errors import ClosedError, OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["BaseSink", "MemorySink", "Sink", "open_sink", "refuse_source", "sink_help"]


class Sink(Protocol):
    """Takes outputs. Used by one thread at a time.

    Attributes:
        name: what it writes to, without credentials.
    """

    name: str

    def write(self, output: Output) -> None:
        """Take one output. A picture is `output.annotated`, which is drawn once for all sinks.

        Raises:
            OutputError: it cannot be written. The sink is then closed, and holds what the class says.
            ClosedError: the sink is closed.
        """

    def close(self) -> None:
        """Finish what was written, so that others can read it. A second call does nothing.

        Raises:
            OutputError: it cannot be finished.
        """

    def __enter__(self) -> Sink:
        """The sink."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, also after an error: what was written is finished."""


_Sink = TypeVar("_Sink", bound="BaseSink")


class BaseSink:
    """The life cycle of a sink, for classes that say how to `_write`, perhaps `_finish` and `_abandon`."""

    name = ""
    _closed = False

    def write(self, output: Output) -> None:
        """See `Sink.write`."""
        if self._closed:
            raise ClosedError(f"the sink {self.name} is closed", remedy="Open it again")
        try:
            self._write(output)
        except OSError as error:  # ours among them
            self._closed = True
            self._abandon(error)
            raise

    def close(self) -> None:
        """See `Sink.close`."""
        if not self._closed:
            self._closed = True
            self._finish()

    def __enter__(self: _Sink) -> _Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, output: Output) -> None:
        """Take one output. Raises OutputError, after which the sink is closed."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Finish the file. Called once, unless a write failed."""

    def _abandon(self, error: OSError) -> None:
        """Let go after a failed write."""


class MemorySink(BaseSink):
    """Keeps outputs in a list: for tests, and for looking at a run afterwards.

    Attributes:
        outputs: what was written, in order.
    """

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.outputs: list[Output] = []

    @property
    def closed(self) -> bool:
        """Whether the sink is closed."""
        return self._closed

    def _write(self, output: Output) -> None:
        self.outputs.append(output)


def open_sink(uri: str | os.PathLike[str], *, fps: float | None = None, force: bool = False) -> Sink:
    """Open a sink.

        with open_sink("out.mp4", fps=source.fps) as sink:
            sink.write(output)

    Args:
        uri: what `sink_help()` lists.
        fps: frames per second, for a video.
        force: write over what is there.

    Raises:
        OutputExistsError: something is there, and `force` is false.
        OutputError: no such sink in this version, no such folder, or no permission.
    """
    text = os.fspath(uri)
    for kind in _KINDS:
        if kind.takes(text):
            return kind.open(text, fps, force)
    raise OutputError(
        f"no sink {mask_credentials(display_path(text))!r} in this version",
        expected=" or ".join(kind.form for kind in _KINDS),
    )


def sink_help() -> list[tuple[str, str]]:
    """What `open_sink` knows: the form of the URI, and what is written."""
    return [(kind.form, kind.meaning) for kind in _KINDS]


def refuse_source(target: Path, output: Output) -> None:
    """Keep a sink from the file that its frames come from, even with `force`. Raises OutputError."""
    source = output.frame.path or Path(output.frame.source)
    try:
        same = target.samefile(source)
    except OSError:
        return  # one of them is no file
    if same:
        raise OutputError(f"cannot write {display_path(target)}", got="the file that the frames come from")


class _Kind(NamedTuple):
    """One kind of sink: how its URI looks, and how it is opened."""

    form: str
    meaning: str
    takes: Callable[[str], bool]
    open: Callable[[str, float | None, bool], Sink]


# Imported when opened, so that JSON lines need no OpenCV and each kind is free to need what it likes.
def _open_json(uri: str, fps: float | None, force: bool) -> Sink:
    from edgecnn.camera.json_sink import JsonLinesSink, StdoutSink

    return StdoutSink() if uri == "-" else JsonLinesSink(uri, force=force)


def _open_video(uri: str, fps: float | None, force: bool) -> Sink:
    from edgecnn.camera.video_sink import VideoSink

    return VideoSink(uri, fps=fps, force=force)


def _open_picture(uri: str, fps: float | None, force: bool) -> Sink:
    from edgecnn.camera.picture_sinks import PictureSink

    return PictureSink(uri, force=force)


def _open_pictures(uri: str, fps: float | None, force: bool) -> Sink:
    from edgecnn.camera.picture_sinks import PicturesSink

    return PicturesSink(uri, force=force)


def _ends_in(*suffixes: str) -> Callable[[str], bool]:
    return lambda uri: "://" not in uri and Path(uri).suffix.lower() in suffixes


def _is_folder(uri: str) -> bool:
    return bool(uri) and "://" not in uri and (uri.endswith("/") or Path(uri).is_dir())


_KINDS = (
    _Kind("-", "JSON lines on stdout", lambda uri: uri == "-", _open_json),
    _Kind(
        "folder/",
        "one annotated picture a frame, named after the image or by its number",
        _is_folder,
        _open_pictures,
    ),
    _Kind("FILE.jsonl", "JSON lines, one a frame", _ends_in(".jsonl"), _open_json),
    _Kind("FILE.mp4|.mkv|.avi", "annotated video", _ends_in(".mp4", ".mkv", ".avi"), _open_video),
    _Kind("FILE.png|.jpg", "one annotated picture", _ends_in(".png", ".jpg", ".jpeg"), _open_picture),
)
