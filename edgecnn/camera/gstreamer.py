"""Cameras and streams through GStreamer: a Jetson's own cameras, its decoder, pipelines of the user's.

What is played is a pipeline in GStreamer's words, made by a function each. That of a Jetson's camera and that
with its decoder are tested as text alone: they have not been run.
"""

from __future__ import annotations

import functools
import logging
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from edgecnn.camera.capture import CaptureReader
from edgecnn.camera.credentials import escape_credentials
from edgecnn.camera.network import READ_SPARE_S, check_reachable, why
from edgecnn.camera.opencv import import_cv2, open_capture
from edgecnn.camera.policy import ALL, Policy
from edgecnn.camera.uri import SourceUri
from edgecnn.errors import BackendUnavailableError, SourceError

__all__ = ["csi_pipeline", "decoder", "has_gstreamer", "open_pipeline", "own_pipeline", "rtsp_pipeline"]

_log = logging.getLogger(__name__)

_NEWEST = {"drop": "true", "max-buffers": "1", "sync": "false"}
_EVERY = {"drop": "false", "max-buffers": "8", "sync": "false"}
_BGR = "videoconvert ! video/x-raw,format=BGR"
_FINITE = re.compile(r"\bnum-buffers=|\b(multi)?filesrc\b|\buri=[\"']?file:")


def has_gstreamer() -> bool:
    """Whether this OpenCV has GStreamer."""
    cv2 = import_cv2()
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


@functools.cache
def decoder() -> str | None:
    """What GStreamer decodes H.264 with: `nvv4l2decoder` (a Jetson's), `avdec_h264`, or None."""
    found = (name for name in ("nvv4l2decoder", "avdec_h264") if _exists("rtspsrc") and _exists(name))
    return next(found, None)


def csi_pipeline(sensor: str, parameters: Mapping[str, Any], policy: Policy | None = None) -> str:
    """The pipeline of a Jetson's own camera.

    Args:
        sensor: its number.
        parameters: `width` and `height` in pixels, `fps`, `flip` (nvvidconv's flip-method), `raw` (NV12 as it
            comes, for an engine that takes it, instead of BGR).
        policy: see `edgecnn.camera.policy`.
    """
    wanted = ["video/x-raw(memory:NVMM)", "format=NV12"]
    if "width" in parameters:
        wanted += [f"width={parameters['width']}", f"height={parameters['height']}"]
    if "fps" in parameters:
        wanted.append(f"framerate={_fraction(parameters['fps'])}")
    converter = f"nvvidconv flip-method={parameters.get('flip', 0)}"
    end = "video/x-raw,format=NV12" if parameters.get("raw") else f"video/x-raw,format=BGRx ! {_BGR}"
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! {','.join(wanted)} ! {converter} ! {end} ! {_appsink(policy)}"
    )


def rtsp_pipeline(
    address: str, *, decoder: str, transport: str | None, latency_ms: int | None, stall_s: float,
    policy: Policy | None = None,
) -> str:  # fmt: skip
    """The pipeline of an RTSP stream.

    Args:
        address: with credentials, if there are any.
        decoder: of `decoder()`; `decodebin` takes it by itself. A Jetson's leaves frames in its own memory.
        transport: `tcp` or `udp`; TCP where None.
        latency_ms: how long packets are held back to put them in order; 0 where None.
        stall_s: after that and a little more, the server is given up.
        policy: see `edgecnn.camera.policy`.
    """
    quoted = address.replace("\\", "\\\\").replace('"', '\\"')
    limit_us = round((stall_s + READ_SPARE_S) * 1e6)
    copy = "nvvidconv ! video/x-raw,format=BGRx ! " if decoder == "nvv4l2decoder" else ""
    return (
        f'rtspsrc location="{quoted}" protocols={transport or "tcp"} latency={latency_ms or 0}'
        f" drop-on-latency=true timeout={limit_us} tcp-timeout={limit_us}"
        f" ! application/x-rtp,media=video ! decodebin ! {copy}{_BGR} ! {_appsink(policy)}"
    )


def own_pipeline(text: str, policy: Policy | None = None) -> tuple[str, bool]:
    """The user's pipeline with what OpenCV needs, and whether it is live.

    Without an `appsink`, one for BGR is added; one that is there stays, and where the pipeline is live gets
    `drop`, `max-buffers` and `sync` for the newest frame, unless it has them. A pipeline that reads files or
    counts its buffers (`num-buffers=`) is none that is live.
    """
    live = _FINITE.search(text) is None
    if policy is None and not live:
        policy = ALL
    match = re.search(r"\bappsink\b((?:\s+[\w-]+\s*=\s*(?:\"[^\"]*\"|[^\s!]+))*)", text)
    if match is None:
        return f"{text} ! {_BGR} ! {_appsink(policy)}", live
    given = re.findall(r"([\w-]+)\s*=", match[1])
    added = [word for word in _appsink(policy).split()[1:] if word.partition("=")[0] not in given]
    return " ".join([text[: match.end()], *added]) + text[match.end() :], live


def open_pipeline(uri: SourceUri, policy: Policy | None, *, stall_s: float) -> CaptureReader:
    """Play the pipeline of a `csi`, `gst` or `rtsp` source.

    Raises:
        SourceError: it cannot be played.
        BackendUnavailableError: OpenCV has no GStreamer.
    """
    cv2 = import_cv2()
    if not has_gstreamer():
        raise BackendUnavailableError(
            f"{uri.name} needs GStreamer",
            got=f"an OpenCV {cv2.__version__} without it",
            remedy="Use JetPack's or Debian's build: sudo apt install python3-opencv, then python3 -m venv "
            "--system-site-packages, and no opencv-python in it",
        )
    live = True
    if uri.kind == "csi":
        pipeline = csi_pipeline(uri.target, uri.parameters, policy)
    elif uri.kind == "rtsp":
        address = escape_credentials(uri.target)
        check_reachable(address, uri.name)
        pipeline = rtsp_pipeline(
            address,
            decoder=decoder() or "avdec_h264",
            transport=uri.parameters.get("transport"),
            latency_ms=uri.parameters.get("latency"),
            stall_s=stall_s,
            policy=policy,
        )
    else:
        pipeline, live = own_pipeline(uri.target, policy)
    _check_elements(pipeline, uri.name)
    capture = open_capture(pipeline, cv2.CAP_GSTREAMER, name=uri.name)
    if capture is None:
        got = why(escape_credentials(uri.target)) if uri.kind == "rtsp" else "GStreamer cannot play it"
        raise SourceError(
            f"cannot open {uri.name}", got=got, remedy="gst-launch-1.0 shows what GStreamer says of it"
        )
    used = f", decoder {decoder()}" if uri.kind == "rtsp" else ""
    _log.info("%s: open, through GStreamer%s", uri.name, used)
    return CaptureReader(capture, name=uri.name, lost="the pipeline ended or failed", live=live)


def _appsink(policy: Policy | None) -> str:
    properties = _NEWEST if policy is None or policy.keep == "newest" else _EVERY
    return " ".join(["appsink", *(f"{name}={value}" for name, value in properties.items())])


def _fraction(fps: float) -> str:
    """A rate as GStreamer writes it: 30/1, and 30000/1001 for 29.97."""
    if fps == round(fps):
        return f"{round(fps)}/1"
    return f"{round(fps * 1001)}/1001"


def _check_elements(pipeline: str, name: str) -> None:
    """Raise SourceError where GStreamer lacks an element: OpenCV would wait for it for ever."""
    elements = re.findall(r"(?:^|!)\s*([a-z][\w-]*)(?=\s|!|$)", pipeline)
    missing = [element for element in elements if not _exists(element, unknown=True)]
    if missing:
        raise SourceError(f"cannot open {name}", got=f"no GStreamer element {', '.join(missing)}")


@functools.cache
def _exists(element: str, *, unknown: bool = False) -> bool:
    """Whether GStreamer has an element; `unknown` where nobody can be asked."""
    tool = shutil.which("gst-inspect-1.0")
    if tool is None:
        return unknown
    try:
        command = [tool, "--exists", element]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return unknown
