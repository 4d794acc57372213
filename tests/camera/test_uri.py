from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.camera.credentials import escape_credentials
from edgecnn.camera.policy import ALL, parse_policy
from edgecnn.camera.uri import display_path, mask_credentials, parse_source
from edgecnn.errors import SourceError


@pytest.mark.parametrize("uri", ["0", 0, "/dev/video0", "v4l2:///dev/video0", "00"])
def test_a_camera_has_a_number(uri: str | int) -> None:
    parsed = parse_source(uri)
    assert (parsed.kind, parsed.target) == ("device", "/dev/video0")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with [brackets].png").write_bytes(b"x")
    (tmp_path / "7").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert parse_source(tmp_path).kind == "folder"
    assert parse_source("with [brackets].png").kind == "file"
    assert parse_source("*.png").kind == "pattern"
    assert parse_source("./7").kind == "file"
    assert parse_source("7").kind == "device"
    parsed = parse_source(f"file://{tmp_path}/with%20%5Bbrackets%5D.png")
    assert (parsed.kind, parsed.target) == ("file", f"{tmp_path}/with [brackets].png")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "rtmp://user:secret@cam/1",
            r"cannot open rtmp://\*\*\*@cam/1: got rtmp://, expected .*file://, v4l2://.* or gst:",
        ),
        ("file://server/share/a.mp4", "expected file:///absolute/path"),
        ("v4l2:///dev/sda?fps=3", "expected v4l2:///dev/videoN"),
        ("rtsp://user:secret@[::1/stream", r"cannot open rtsp://\*\*\*@\[::1/stream: got a bad host"),
        ("http://cam:65536/v", "cannot open http://cam:65536/v: got a bad port"),
        ("missing.mp4", "missing.mp4 does not exist"),
        ("", "the source does not exist"),
    ],
)
def test_what_is_no_source_is_refused(uri: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        parse_source(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("rtsp://user:pass@host:554/live", "rtsp://***@host:554/live"),
        ("rtsp://user@host/live", "rtsp://***@host/live"),
        ("rtsp://user:p@ss@host/live", "rtsp://***@host/live"),
        ("rtsp://user:pa/ss@host/live", "rtsp://***@host/live"),
        ("rtsp://user:pa?ss#@host", "rtsp://***@host"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("http://[::1]:8080/a@b", "http://[::1]:8080/a@b"),
        ("http://host/a@b", "http://host/a@b"),
        ("rtsp://cam/1?user=admin&password=x&channel=2", "rtsp://cam/1?user=***&password=***&channel=2"),
        ("rtsp://cam/user=admin_password=x_channel=1", "rtsp://cam/user=***"),
        ("http://cam/v?access_token=x#t", "http://cam/v?access_token=***#t"),
        ("http://cam/v?monkey=1&userlist=2", "http://cam/v?monkey=1&userlist=2"),
        (
            'gst:rtspsrc location="rtsp://a:b@cam/1" user-id=u user-pw="p w" ! a@b',
            'gst:rtspsrc location="rtsp://***@cam/1" user-id=*** user-pw=*** ! a@b',
        ),
        (
            "gst:souphttpsrc location=http://u:p@h/x ! x264enc key-int-max=3",
            "gst:souphttpsrc location=http://***@h/x ! x264enc key-int-max=3",
        ),
        ("could not open rtsp://u:p@cam/1", "could not open rtsp://***@cam/1"),
        ("a@b.mp4", "a@b.mp4"),
        ("/data/x:y@z", "/data/x:y@z"),
    ],
)
def test_credentials_are_masked_and_nothing_else(uri: str, masked: str) -> None:
    assert mask_credentials(uri) == masked


@given(
    user=st.text("abcXYZ0189._~-%", min_size=1),
    password=st.text("abcXYZ0189._~-%!$&'()*+,;=:@/?#", min_size=1),
    path=st.text("abc/"),
)
def test_no_password_ever_shows(user: str, password: str, path: str) -> None:
    secret = f"<{password}>"  # a character that ends up nowhere else; `<` makes it no port number
    masked = mask_credentials(f"rtsp://{user}:{secret}@cam.example:554/{path}")
    assert masked == f"rtsp://***@cam.example:554/{path}"


@given(password=st.text("abcXYZ0189._~-%!$&'()*+,;=:@/?#", min_size=1))
def test_an_escaped_password_leaves_the_host_alone(password: str) -> None:
    address = escape_credentials(f"rtsp://user:<{password}>@cam.example:554/a?b=c")
    parts = urlsplit(address)
    assert (parts.hostname, parts.port, parts.path, parts.query) == ("cam.example", 554, "/a", "b=c")
    if "%" not in password:  # one that is escaped already stays
        assert unquote(parts.password or "") == f"<{password}>"
    assert escape_credentials(address) == address


# Parameters


@pytest.mark.parametrize(
    ("uri", "kind", "target", "parameters"),
    [
        ("v4l2:///dev/video2?width=1280&height=720&fps=30&format=mjpg", "device", "/dev/video2",
         {"width": 1280, "height": 720, "fps": 30.0, "format": "MJPG"}),
        ("v4l2:///dev/v4l/by-id/usb-1-index0?raw=1&format=Y16", "device", "/dev/v4l/by-id/usb-1-index0",
         {"raw": True, "format": "Y16 "}),
        ("csi://0", "csi", "0", {}),
        ("CSI://1?flip=2&policy=all", "csi", "1", {"flip": 2, "policy": ALL}),
        ("rtsp://u:p@cam/s?transport=udp&channel=1&latency=80&x", "rtsp", "rtsp://u:p@cam/s?channel=1&x",
         {"transport": "udp", "latency": 80}),
        ("rtsp://cam/s?transport=tcp", "rtsp", "rtsp://cam/s", {"transport": "tcp"}),
        ("rtsp://cam/s?a=%20+&b", "rtsp", "rtsp://cam/s?a=%20+&b", {}),
        ("rtsps://cam/s", "rtsp", "rtsps://cam/s", {}),
        ("https://cam/v?fps=5&policy=all", "http", "https://cam/v?fps=5", {"policy": ALL}),
        ("http://cam/v?policy=queue=4", "http", "http://cam/v", {"policy": parse_policy("queue=4")}),
        ("udp://@:5000", "udp", "udp://@:5000", {}),
        ("udp://239.0.0.1:5000?fifo_size=9", "udp", "udp://239.0.0.1:5000?fifo_size=9", {}),
        ("test://?width=96&height=64&frames=3&format=nv12", "test", "",
         {"width": 96, "height": 64, "frames": 3, "format": "nv12"}),
        ("test://", "test", "", {}),
        ("gst: videotestsrc ! appsink", "gst", "videotestsrc ! appsink", {}),
    ],
)  # fmt: skip
def test_cameras_and_streams(uri: str, kind: str, target: str, parameters: dict[str, object]) -> None:
    parsed = parse_source(uri)
    assert (parsed.kind, parsed.target, parsed.parameters) == (kind, target, parameters)
    assert not parsed.is_stored
    assert "u:p" not in repr(parsed)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "v4l2:///dev/video0?size=3",
            "unknown parameter: got size, expected width, height, fps, raw, policy, format",
        ),
        (
            "csi://0?format=MJPG",
            "unknown parameter: got format, expected width, height, fps, raw, policy, flip",
        ),
        ("test://?", None),
        ("test://?&", "unknown parameter: got nothing"),
        ("test://?width=97&height=64", "bad width: got 97, expected an even number from 96 to 16384"),
        ("test://?width=640", "only one of width and height"),
        ("test://?fps=0", "bad fps: got 0, expected a number from"),
        ("test://?fps=nan", "bad fps"),
        ("test://?fps=fast", "bad fps"),
        ("test://?frames=1e3", "bad frames: got 1e3, expected a whole number from 1"),
        ("test://?frames=1&frames=2", "has frames twice"),
        ("test://?format=rgb", "bad format: got rgb, expected bgr or gray or nv12 or yuyv"),
        ("test://host", r"expected test://\?width&height"),
        ("csi://left", "expected csi://N"),
        ("csi://0?flip=8", "bad flip: got 8, expected a whole number from 0 to 7"),
        ("v4l2:///dev/video0?raw=yes", "bad raw: got yes, expected 0 or 1"),
        ("v4l2:///dev/video0?format=a/b", "bad format: got a/b, expected four letters"),
        ("rtsp://u:secret@cam?transport=http", "bad transport: got http, expected tcp or udp"),
        ("rtsp://cam?policy=newest", "bad policy: got newest, expected latest, all or queue=N"),
        ("rtsp://", "got no host, expected rtsp://host"),
        ("rtsp://u:secret@", "got no host"),
        ("http:///x", "got no host"),
    ],
)
def test_parameters_that_are_refused(uri: str, said: str | None) -> None:
    if said is None:
        parse_source(uri)
        return
    with pytest.raises(SourceError, match=said) as caught:
        parse_source(uri)
    assert "secret" not in str(caught.value.to_dict())


@pytest.mark.parametrize(
    ("uri", "pixel_format"),
    [
        ("0", "bgr"),
        ("v4l2:///dev/video0?raw=1", "raw"),
        ("v4l2:///dev/video0?raw=1&format=YUYV", "yuyv"),
        ("v4l2:///dev/video0?format=YUYV", "bgr"),
        ("csi://0", "bgr"),
        ("csi://0?raw=1", "nv12"),
        ("test://?format=gray", "gray"),
        ("rtsp://cam/1", "bgr"),
        ("gst:videotestsrc", None),
    ],
)
def test_what_the_frames_are(uri: str, pixel_format: str | None) -> None:
    assert parse_source(uri).pixel_format == pixel_format


def test_a_name_that_is_no_utf8_can_be_shown() -> None:
    assert display_path("caf\udce9.png") == "caf\ufffd.png"
