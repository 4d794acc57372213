from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgecnn.camera import open_camera
from edgecnn.errors import SourceError
from tests.colours import colour_cycle, colour_of, decode_video, write_video


@pytest.mark.parametrize(
    ("name", "count", "hw", "fps"),
    [("bikes.mp4", 250, (272, 640), 25.0), ("carphone_pristine.mp4", 120, (144, 176), 29.97)],
)
def test_real_videos(
    videos: Path, caplog: pytest.LogCaptureFixture, name: str, count: int, hw: tuple[int, int], fps: float
) -> None:
    with open_camera(videos / name) as source:
        assert source.fps == pytest.approx(fps, abs=0.001)
        assert (source.frame_count, source.live) == (count, False)
        indexes, stamps = [], []
        for frame in source:
            assert frame.image.shape == (*hw, 3)
            assert (frame.source, frame.path) == (str(videos / name), None)
            indexes.append(frame.index)
            stamps.append(frame.captured_at)
    assert indexes == list(range(count))
    assert stamps == sorted(stamps)
    assert caplog.records == []


def test_frames_are_opencvs_and_stay_when_the_next_one_comes(videos: Path) -> None:
    expected = decode_video(videos / "carphone_pristine.mp4")
    with open_camera(videos / "carphone_pristine.mp4") as source:
        frames = [frame.image for frame in source]
    np.testing.assert_array_equal(np.stack(frames), np.stack(expected))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a:b %d.mp4", "mp4v")]
)
def test_containers_and_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str
) -> None:
    write_video(tmp_path / name, colour_cycle(9), codec=codec)
    monkeypatch.chdir(tmp_path)  # a relative name with a colon must not be taken for an address
    with open_camera(name) as source:
        assert source.frame_count == 9
        assert [colour_of(frame.image) for frame in source] == ["red", "green", "blue"] * 3


def noise_video(path: Path, codec: str) -> Path:
    """A video that is large for its number of frames, so that cutting it takes some away."""
    rng = np.random.default_rng(0)
    return write_video(path, list(rng.integers(0, 256, (60, 48, 64, 3), np.uint8)), codec=codec)


def cut(path: Path, share: float) -> int:
    """Shorten a file; returns its new length."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return int(len(data) * share)


def test_a_container_that_counts_and_ends_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = noise_video(tmp_path / "short.avi", "MJPG")
    cut(path, 0.6)
    with caplog.at_level(logging.WARNING), open_camera(path) as source:
        got = len(list(source))
        assert source.frame_count == 60
    assert 20 < got < 60
    assert caplog.messages == [
        f"{path} ends early: got {got} of the 60 frames that it announces; it is damaged or cut off"
    ]


def test_a_container_that_estimates_and_ends_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = noise_video(tmp_path / "short.mkv", "mp4v")
    cut(path, 0.6)
    with caplog.at_level(logging.WARNING), open_camera(path) as source:
        got = len(list(source))
    assert 20 < got < 60
    assert caplog.messages == [f"{path} may be cut off: got {got} frames, expected about 60 by its duration"]


def test_a_cut_mp4_has_no_index(tmp_path: Path, videos: Path) -> None:
    path = Path(shutil.copy(videos / "bikes.mp4", tmp_path))
    size = cut(path, 0.5)
    with pytest.raises(
        SourceError, match=f"bikes.mp4: got a video of {size} bytes without an index.*cut off"
    ):
        open_camera(path)


def test_a_damaged_mp4_says_how_many_frames_it_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = noise_video(tmp_path / "damaged.mp4", "mp4v")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING), open_camera(path) as source:
        got = len(list(source))
    assert 0 < got < 60
    assert f"got {got} of the 60 frames" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "got an empty file"), (b"this is no video at all", "got 23 bytes that start with b'this is '")],
)
@pytest.mark.parametrize("name", ["a.mp4", "unnamed"])
def test_not_a_video(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, said: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=said):
        open_camera(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_a_folder_named_like_a_video_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(SourceError, match="no images in"):
        open_camera(tmp_path / "a.mp4")
