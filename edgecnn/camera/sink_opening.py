"""Which sinks there are, and what their URIs mean: the one list of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgecnn.camera.sink import Sink
from edgecnn.camera.uri import display_path, mask_credentials
from edgecnn.errors import OutputError

__all__ = ["open_sink", "sink_help"]


def open_sink(
    uri: str | os.PathLike[str], *, fps: float | None = None, live: bool = False, force: bool = False
) -> Sink:
    """Open a sink.

        with open_sink("out.mp4", fps=source.fps, live=source.live) as sink:
            sink.write(output)

    Args:
        uri: what `sink_help()` lists.
        fps: frames per second, for a video.
        live: the frames come from a camera, so a video's clock follows the moments when they were captured.
        force: write over what is there.

    Raises:
        OutputExistsError: something is there, and `force` is false.
        OutputError: no such sink in this version, no such folder, no permission, no display, a port in use.
        BackendUnavailableError: a library that this sink needs is not installed.
    """
    text = os.fspath(uri)
    for kind in _KINDS:
        if kind.takes(text):
            return kind.open(text, _Options(fps, live, force))
    raise OutputError(
        f"no sink {mask_credentials(display_path(text))!r} in this version",
        expected=" or ".join(kind.form for kind in _KINDS),
    )


def sink_help() -> list[tuple[str, str]]:
    """What `open_sink` knows: the form of the URI, and what is written."""
    return [(kind.form, kind.meaning) for kind in _KINDS]


class _Options(NamedTuple):
    """See `open_sink`."""

    fps: float | None
    live: bool
    force: bool


class _Kind(NamedTuple):
    """One kind of sink: how its URI looks, and how it is opened."""

    form: str
    meaning: str
    takes: Callable[[str], bool]
    open: Callable[[str, _Options], Sink]


# Imported when opened, so that JSON lines need no OpenCV and each kind is free to need what it likes.
def _open_stdout(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.line_sinks import StdoutSink

    return StdoutSink()


def _open_json(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.line_sinks import JsonLinesSink

    return JsonLinesSink(uri, force=options.force)


def _open_csv(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.csv_sink import CsvSink

    return CsvSink(uri, force=options.force)


def _open_video(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.video_sink import VideoSink

    return VideoSink(uri, fps=options.fps, live=options.live, force=options.force)


def _open_picture(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.picture_sinks import PictureSink

    return PictureSink(uri, force=options.force)


def _open_pictures(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.picture_sinks import PicturesSink

    return PicturesSink(uri, force=options.force)


def _open_web(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.web_sink import WebSink

    return WebSink(uri)


def _open_window(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.window_sink import WindowSink

    title = uri.partition(":")[2]
    return WindowSink(title) if title else WindowSink()


def _open_mqtt(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.mqtt_sink import MqttSink

    return MqttSink(uri)


def _open_bag(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.bag_sink import BagSink

    return BagSink(uri, force=options.force)


def _open_stream(uri: str, options: _Options) -> Sink:
    from edgecnn.camera.stream_sink import StreamSink

    return StreamSink(uri, fps=options.fps)


def _ends_in(*suffixes: str) -> Callable[[str], bool]:
    return lambda uri: "://" not in uri and Path(uri).suffix.lower() in suffixes


def _is_folder(uri: str) -> bool:
    return bool(uri) and "://" not in uri and (uri.endswith("/") or Path(uri).is_dir())


def _is_window(uri: str) -> bool:
    return uri == "window" or uri.startswith("window:")


def _begins_with(*schemes: str) -> Callable[[str], bool]:
    return lambda uri: uri.lower().startswith(schemes)


_KINDS = (
    _Kind("-", "JSON lines on stdout", lambda uri: uri == "-", _open_stdout),
    _Kind("NAME.rosbag", "a ROS 2 bag: pictures and results", _ends_in(".rosbag"), _open_bag),
    _Kind(
        "FOLDER/",
        "one annotated picture a frame, named after the image or by its number",
        _is_folder,
        _open_pictures,
    ),
    _Kind("FILE.jsonl", "JSON lines, one a frame", _ends_in(".jsonl"), _open_json),
    _Kind("FILE.csv", "a table, one row for each thing found", _ends_in(".csv"), _open_csv),
    _Kind("FILE.mp4|.mkv|.avi", "annotated video", _ends_in(".mp4", ".mkv", ".avi"), _open_video),
    _Kind("FILE.png|.jpg", "one annotated picture", _ends_in(".png", ".jpg", ".jpeg"), _open_picture),
    _Kind("window", "a window; window:TITLE has that title", _is_window, _open_window),
    _Kind("http://HOST:PORT", "web page to watch it on", _begins_with("http://"), _open_web),
    _Kind("rtsp://HOST/PATH", "annotated video to an RTSP server", _begins_with("rtsp://"), _open_stream),
    _Kind("udp://HOST:PORT", "annotated video, as MPEG-TS", _begins_with("udp://"), _open_stream),
    _Kind("mqtt://HOST/TOPIC", "JSON to an MQTT broker", _begins_with("mqtt://", "mqtts://"), _open_mqtt),
)
