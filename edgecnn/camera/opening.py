"""From a source's URI to an open source."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from edgecnn.camera.device import open_device
from edgecnn.camera.events import Events, Subscriber
from edgecnn.camera.gstreamer import decoder, has_gstreamer, open_pipeline
from edgecnn.camera.images import ImagesReader, image_files, is_image_name
from edgecnn.camera.live import OPEN_S, STALL_S, LiveReader
from edgecnn.camera.network import open_stream
from edgecnn.camera.pattern import PatternReader
from edgecnn.camera.playback import Playback
from edgecnn.camera.policy import ALL, LATEST, POLICIES, Policy, parse_policy
from edgecnn.camera.source import Reader, Source
from edgecnn.camera.uri import SourceUri, parse_source
from edgecnn.camera.video import VideoReader
from edgecnn.errors import SourceError

__all__ = ["open_camera"]


def open_camera(
    uri: str | os.PathLike[str] | int,
    *,
    policy: str | None = None,
    reconnect: int | None = None,
    stall_s: float = STALL_S,
    open_s: float = OPEN_S,
    on_event: Subscriber | None = None,
) -> Source:
    """Open a camera, a stream, a video, or images.

        for frame in open_camera("rtsp://camera/stream"):
            print(frame.index, frame.age_ms, frame.image.shape)

    A camera that was there once is waited for: when it is silent, gone or fails, it is opened again, at most
    a second after the last try, and `on_event` is told. One that cannot be opened at first is an error.

    Args:
        uri: what `edgecnn.camera.uri` lists: `0`, `rtsp://…`, `csi://0`, `photos/`, `clip.mp4`.
        policy: which frames are handed over when they come faster than they are taken: `latest` (what a
            camera or stream does unless told otherwise; with a video file: at its own speed), `all` (what
            files do), `queue=N` (all, with N decoded ahead). May stand in the URI instead, as a parameter.
        reconnect: tries before a lost source is given up with an error; None: for ever; 0: none.
        stall_s: a camera or stream that gives no frame for so many seconds has stalled.
        open_s: seconds that connecting may take, the first frame included.
        on_event: is called with each SourceEvent, also those of the first connection; see
            `edgecnn.camera.events`.

    Raises:
        SourceError: nothing there, nothing readable there, a URI that this version does not read, or policy,
            reconnect, stall_s or open_s out of range.
        BackendUnavailableError: OpenCV is not installed, or has not what the URI needs.
    """
    parsed = parse_source(uri)
    _check(parsed.name, reconnect, stall_s, open_s)
    try:
        asked = parse_policy(policy) if policy is not None else parsed.parameters.get("policy")
    except ValueError as error:
        raise SourceError(f"cannot open {parsed.name} with policy {policy!r}", expected=POLICIES) from error
    events = Events(parsed.name, "connecting")
    if on_event is not None:
        events.subscribe(on_event)
    if parsed.is_stored and asked in (None, ALL):
        reader = _stored(parsed)
        events.say("streaming")
        return Source(reader, events=events, pixel_format=parsed.pixel_format)
    live = LiveReader(
        functools.partial(_connect, parsed, asked, stall_s=stall_s, open_s=open_s),
        events=events,
        policy=functools.partial(_policy, asked),
        reconnect=reconnect,
        stall_s=stall_s,
        open_s=open_s,
    )
    return Source(
        live,
        policy=live.policy.name,
        events=events,
        interrupt=live.interrupt,
        pixel_format=parsed.pixel_format,
    )


def _check(name: str, reconnect: int | None, stall_s: float, open_s: float) -> None:
    for value, good, what, expected in (
        (reconnect, reconnect is None or reconnect >= 0, "reconnect", "a whole number from 0, or None"),
        (stall_s, stall_s > 0, "stall_s", "more than 0"),
        (open_s, open_s > 0, "open_s", "more than 0"),
    ):
        if not good:
            raise SourceError(f"cannot open {name}: a bad {what}", got=str(value), expected=expected)


def _policy(asked: Policy | None, reader: Reader) -> Policy:
    return asked or (LATEST if reader.live else ALL)


def _connect(uri: SourceUri, policy: Policy | None, *, stall_s: float, open_s: float) -> Reader:
    reader = _stored(uri) if uri.is_stored else _camera(uri, policy, stall_s=stall_s, open_s=open_s)
    if policy is LATEST and not reader.live:
        if reader.fps is None:
            reader.close()
            raise SourceError(
                f"{uri.name} has no frame rate", got="policy latest", expected="policy all or queue=N"
            )
        return Playback(reader, reader.fps)
    return reader


def _camera(uri: SourceUri, policy: Policy | None, *, stall_s: float, open_s: float) -> Reader:
    if uri.kind == "device":
        return open_device(uri)
    if uri.kind == "test":
        parameters = {name: value for name, value in uri.parameters.items() if name != "policy"}
        return PatternReader(name=uri.name, pixel_format=parameters.pop("format", "bgr"), **parameters)
    if uri.kind in ("csi", "gst") or (uri.kind == "rtsp" and _prefers_gstreamer(uri)):
        return open_pipeline(uri, policy, stall_s=stall_s)
    return open_stream(uri, stall_s=stall_s, open_s=open_s)


def _prefers_gstreamer(uri: SourceUri) -> bool:
    """Where OpenCV has it and it can decode: frames are younger, and a Jetson decodes beside its CPU. Only it
    can hold packets back."""
    return "latency" in uri.parameters or (has_gstreamer() and decoder() is not None)


def _stored(uri: SourceUri) -> Reader:
    if uri.kind in ("folder", "pattern"):
        return ImagesReader(image_files(uri.target), name=uri.name)
    if is_image_name(uri.target) or _starts_like_image(uri.target):
        return ImagesReader([Path(uri.target)], name=uri.name)
    return VideoReader(uri.target, name=uri.name)


_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\0", b"MM\0*")


def _starts_like_image(path: str) -> bool:
    """Whether a file without an image's name is one: a download without an ending."""
    try:
        with Path(path).open("rb") as file:
            return file.read(8).startswith(_IMAGE_STARTS)
    except OSError:
        return False  # the reader says what is wrong with it
