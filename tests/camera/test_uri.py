from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ("v4l2:///dev/sda", "expected v4l2:///dev/videoN"),
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


def test_a_name_that_is_no_utf8_can_be_shown() -> None:
    assert display_path("caf\udce9.png") == "caf\ufffd.png"
