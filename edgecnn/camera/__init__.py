"""Cameras in, results out: sources of frames and sinks of outputs, both named by URIs.

    with open_camera("clip.mp4") as source:
        for frame in source:
            print(frame.index, frame.age_ms, frame.image.shape)

`edgecnn.camera.uri` says what a source's URI means, `edgecnn.camera.sink_opening` what a sink's does. OpenCV
is imported when the first of them is opened.
"""

from __future__ import annotations

from edgecnn.camera.events import SourceEvent
from edgecnn.camera.images import IMAGE_SUFFIXES, image_files, read_image
from edgecnn.camera.opening import open_camera
from edgecnn.camera.pattern import Stamp, draw_stamp, read_stamp
from edgecnn.camera.sink import CallbackSink, MemorySink, Sink, StopRequested
from edgecnn.camera.sink_opening import open_sink, sink_help
from edgecnn.camera.source import Capture, Frame, MemoryReader, Reader, Skipped, Source
from edgecnn.camera.uri import mask_credentials

__all__ = [
    "IMAGE_SUFFIXES",
    "CallbackSink",
    "Capture",
    "Frame",
    "MemoryReader",
    "MemorySink",
    "Reader",
    "Sink",
    "Skipped",
    "Source",
    "SourceEvent",
    "Stamp",
    "StopRequested",
    "draw_stamp",
    "image_files",
    "mask_credentials",
    "open_camera",
    "open_sink",
    "read_image",
    "read_stamp",
    "sink_help",
]
